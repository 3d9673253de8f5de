"""What strangers send, within limits: the bodies of requests and the pictures in them, for the server and the page."""
