"""The nodes of the pipeline: functions of configuration and inputs that write one folder, `result.json` last."""
