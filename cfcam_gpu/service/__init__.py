"""An HTTP service that explains images: ``cfcam-gpu serve``.

``backend.py`` decodes, explains by the methods of ``explainers.py`` and encodes, within the bounds of ``decoding.py``;
``app.py`` is the application, and ``traffic.py`` and ``access.py`` are what every request must keep to; ``proxy.py`` is
the HTTP server, and ``deployment.py`` has Ray Serve run the replicas that it asks.
"""
