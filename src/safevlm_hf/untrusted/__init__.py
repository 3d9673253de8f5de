"""Read what strangers send within limits: the bodies of requests and their pictures, for the server and the page."""
