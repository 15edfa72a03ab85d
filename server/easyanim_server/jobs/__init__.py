"""Records of jobs, their queue, the dispatcher, results."""
