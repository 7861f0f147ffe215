"""People in the loop: what a judge said (`audit`), the doubtful part of it shown to people (`export`, `gallery`), and
what they said back (`corrections`), as rows that the next recipe learns from.
"""
