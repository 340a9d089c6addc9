"""Ulna: datasets remember, policies act, envs judge, train teaches, deploy_robot moves.

This folder is the package `ulna`. The folders beside this file hold no `__init__.py`, so that
`import datasets` still means Hugging Face's library when Python is started from here.
"""
