"""Bytes that a stranger may leave wherever a document is expected."""

DEEP = 5_000

ACKNOWLEDGEMENTS = {
    "acknowledgement": b'{"stream":"LLM_REQ","seq":1}',
    "duplicate": b'{"stream":"LLM_REQ","seq":7,"duplicate":true}',
    "with domain": b'{"stream":"LLM_REQ","domain":"hub","seq":12}',
    "with count": b'{"stream":"LLM_SPEND","seq":1,"val":"12","batch":"b","count":2}',
    "refusal": b'{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},'
    b'"stream":"LLM_REQ","seq":0}',
    "spaced": b' {"seq": 1, "stream": "LLM_REQ"} ',
}

GARBAGE = {
    **ACKNOWLEDGEMENTS,
    "empty": b"",
    "text": b"hello",
    "not utf-8": b"\xff\xfe\x00\x80",
    "half surrogate": b'{"tenants": {"\\ud800": {"weight": "\\udfff"}}}',
    "null": b"null",
    "number": b"12",
    "infinite number": b"1e999",
    "NaN": b"NaN",
    "long number": b"1" * 5_000,
    "string": b'"x"',
    "list": b"[1, 2, 3]",
    "open brackets": b"[" * DEEP,
    "open objects": b'{"a":' * DEEP,
    "nested list": b"[" * DEEP + b"]" * DEEP,
    "nested object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nested in a field": b'{"tenants": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "nested in an unknown field": b'{"zzz": ' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1),
    "cut short": b'{"job": "j1", "tenant": "ac',
    "wrong types": b'{"job": 1, "tenant": [], "state": {}, "attempt": "x", "version": 1, "tenants": [], "v": "x"}',
    "controls": b'{"\\u0000\\u001b[2J": "\\r\\n"}',
    "huge": b'{"x": "' + b"a" * 900_000 + b'"}',
    "many fields": b"{" + b",".join(b'"f%d": %d' % (i, i) for i in range(20_000)) + b"}",
    "TOML brackets": b"a = " + b"[" * DEEP,
    "TOML tables": b"a = " + b"{a = " * DEEP,
    "TOML dots": b".".join([b"a"] * DEEP) + b" = 1",
    "TOML deep in options": b"[filters.x]\nkind = 'pii'\noptions." + b".".join([b"a"] * 300) + b" = 1",
}
