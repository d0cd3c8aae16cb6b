"""One HTML page from files of results: what ``cfcam-gpu report`` makes."""
