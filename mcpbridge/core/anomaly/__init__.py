"""Statistical detection of servers that get worse before they fail. Pure: windows are passed in, no clock is read."""
