"""Parts of the report: records in, tables and figures out, put together by `x2l.report`."""
