"""Which backend of a server takes the next attempt. Pure: time and chance are passed in."""
