"""What a platform does with a release, on this machine: `python -m tests.deploy_check`, or `make deploy-check`."""
