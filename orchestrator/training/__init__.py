"""THE WORKER'S PROGRAM, without Ray: data, feed, callbacks, the solo engine, and publishing what was trained."""
