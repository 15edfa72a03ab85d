"""Admission, the queue, and what each job has said so far."""
