"""An HTTP service that explains images: ``cfcam-gpu serve``.

``backend.py`` decodes, explains and answers; ``app.py`` is HTTP; ``deployment.py`` has Ray Serve run both.
"""
