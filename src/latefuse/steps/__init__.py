"""The nodes of the pipeline: functions of a configuration and inputs that write one folder and end with `result.json`."""
