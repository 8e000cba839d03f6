"""What a hostile tenant, tool, caller or a slip of an operator's says: tables that trials walk."""

import json
import os
from collections.abc import Mapping
from typing import Any

HERE: dict[str, Any] = {"$ref": "#"}
STATUS_LINES = (
    b"NATS/1.0",
    b"NATS/1.0 404 Message Not Found",
    b"NATS/1.0 204 EOB",
    b"NATS/1.0 503",
    b"NATS/1.0 100 Idle Heartbeat",
    b"NATS/1.0 999999999999999999999999",
)
HEADERS = (
    b"Nats-Subject: llm.v1.request.globex.interactive",
    b"Nats-Sequence: 1\r\nNats-Stream: KV_LLM_JOB",
    b"Nats-Time-Stamp: 1999-01-01T00:00:00Z",
    b"Nats-Num-Pending: 0\r\nNats-Last-Sequence: 99999999\r\nNats-UpTo-Sequence: 0",
    b"Status: 404\r\nDescription: EOB",
    b"KV-Operation: DEL\r\nNats-Marker-Reason: MaxAge",
    b"Llm-Dead: 1\r\nLlm-Expires: 0\r\nLlm-Policy: x\r\nLlm-End: true\r\nLlm-Tenant: globex",
    b"Nats-Service-Error-Code: 500",
    b"Llm-Job-Id: another",
    b": x\r\nno colon",
    b"traceparent: a\x0bNats-Rollup: all\x0b",
    b"tracestate: \x00\x1c\x85\xff\xed\xa0\x80",
    b"B: " + b"x" * 50_000,
    b"\r\n".join(b"h%d: x" % i for i in range(3000)),
)
REPLIES = (
    *(b"_INBOX_acme." + b"r" * length for length in (3000, 4000, 4030, 4040)),
    *(b"_INBOX_acme.*", b"_INBOX_acme.>", b">", b"*", b"_INBOX_acme..x", b".", b"..", b"_INBOX_acme."),
    *(b"$SYS.REQ", b"$JS.API.INFO", b"_INBOX_globex.x", b"_INBOX_acmex.y", b"_INBOX_acme\x0b.x", b"_INBOX_ACME.x"),
    *(b"LLM.v1.get.globex.x", b"llm\x00.v1", b"\xff\xfe", b"llm.v1.call.acme.x.1_0_0"),
    b"_INBOX_acme." + b".".join([b"a"] * 1500),
)


def nested(depth: int, key: str = "a", leaf: Any = 1) -> Any:
    value = leaf
    for _ in range(depth):
        value = {key: value}
    return value


def lists(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list_of(definition: dict[str, Any]) -> dict[str, Any]:
    return {**_object(x={"$ref": "#/$defs/l"}), "$defs": {"l": {"type": "array", **definition}}}


_LIST: dict[str, Any] = {"$ref": "#/$defs/l"}
_UNTRUE: dict[str, Any] = {"not": {"anyOf": [HERE, {"type": "integer"}]}}
_DOUBLED: dict[str, Any] = {
    f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)
}
_RECURSIVE: dict[str, tuple[Any, Any]] = {
    "one_of": (_object(a={"oneOf": [HERE, HERE, {"type": "integer"}]}), nested(30)),
    "all_of": (_object(a={"allOf": [{"anyOf": [HERE, {"type": "integer"}]}] * 2}), nested(30)),
    "not": (_object(a={"not": {"anyOf": [_UNTRUE, {"not": {"not": _UNTRUE}}]}}), nested(30)),
    "if": (_object(a={"if": HERE, "then": HERE, "else": {"if": HERE, "then": HERE}}), nested(30)),
    "dependent": ({**_object(a=HERE), "dependentSchemas": {"a": _object(a=HERE)}}, nested(40)),
    "unevaluated": ({"type": "object", "allOf": [_object(a=HERE)] * 2, "unevaluatedProperties": HERE}, nested(30)),
    "prefix_items": (_list_of({"anyOf": [{"prefixItems": [_LIST]}, {"contains": _LIST}]}), {"x": lists(35)}),
    "unevaluated_items": (_list_of({"contains": _LIST, "unevaluatedItems": _LIST}), {"x": lists(35)}),
    "dynamic": (
        {
            "$dynamicAnchor": "n",
            **_object(a={"anyOf": [{"allOf": [{"$dynamicRef": "#n"}] * 2}, {"type": "integer"}]}),
        },
        nested(35),
    ),
    "cycle": ({**_object(x={"$ref": "#/$defs/a"}), "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, {"x": 1}),
    "doubled": ({**_object(x={"$ref": "#/$defs/d0"}), "$defs": {**_DOUBLED, "d40": {}}}, {"x": 1}),
}
_WIDE: dict[str, tuple[Any, Any]] = {
    "names": ({"type": "object", "propertyNames": {"pattern": "^(a+)+$"}}, {"a" * 60 + "!": 1}),
    "pattern": (_object(s={"pattern": "(x+x+)+y"}), {"s": "x" * 200}),
    "look_ahead": (_object(s={"pattern": "(?=(a+)+$)(?<x>b)\\k<x>\\p{L}"}), {"s": "a" * 200}),
    "brackets": (_object(s={"pattern": "(" * 3000 + ")" * 3000}), {"s": "x"}),
    "unique": (_object(x={"uniqueItems": True}), {"x": [[i] if i % 2 else i for i in range(1500)]}),
    "enum": (_object(x={"items": {"enum": [{"a": i} for i in range(1000)]}}), {"x": [{"a": "no"}] * 1000}),
    "any_of": (_object(x={"items": {"anyOf": [{"const": i} for i in range(500)]}}), {"x": list(range(-2000, 0))}),
    "multiple": (_object(x={"multipleOf": 0.1}, y={"multipleOf": 1e-300}), {"x": 10**400, "y": 1e308}),
    "digits": (_object(x={"maximum": 10**4000}), {"x": 1.5}),
    "contains": (_object(x={"contains": {"contains": {"const": 1}}, "minContains": 999}), {"x": [[0] * 20] * 200}),
    "required": (
        {"type": "object", "required": [f"k{i}" for i in range(2000)]},
        {f"q{i}": 1 for i in range(1000)},
    ),
    "elsewhere": (_object(x={"$ref": "http://127.0.0.1:9/x"}), {"x": 1}),
    "file": (_object(x={"$ref": "file:///etc/passwd"}), {"x": 1}),
    "dialect": ({"$schema": "http://127.0.0.1:9/meta", "type": "object"}, {"x": 1}),
    "no_address": ({"$id": "http://[::1", "type": "object"}, {"x": 1}),
    "odd_names": ({**_object(**{"__class__": {}, "\0": {}, "": {}}), "required": ["__proto__"]}, {"__class__": 1}),
}
SCHEMAS: Mapping[str, tuple[dict[str, Any], bytes]] = {
    name: (schema, json.dumps(instance).encode()) for name, (schema, instance) in {**_RECURSIVE, **_WIDE}.items()
}

_SAYS = '"messages":[{"role":"user","content":"[[tokens=2]] x"}]'
REQUESTS = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        '{"messages":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"messages":' + json.dumps([{"role": "user", "content": "x"}] * 5000) + "}",
        '{"messages":' + json.dumps([{"role": "user", "content": [{"type": "text", "text": "x"}] * 5000}]) + "}",
        *(
            f'{{{_SAYS},"metadata":{value}}}'
            for value in ('{"a":1e400}', '{"\\ud800":1}', '{"a":"\\u0000"}', "[]")
        ),
        f'{{{_SAYS},"metadata":{{"a":{"9" * 5000}}}}}',
        f'{{{_SAYS},"model":{json.dumps(["claude-sonnet-4-5"] * 5000)}}}',
        f'{{{_SAYS},"model":"../../../x?y#z"}}',
        f'{{{_SAYS},"model":"arn:aws:bedrock:us-east-1:1:\\r\\nHost: evil/../"}}',
        f'{{{_SAYS},"tools":{json.dumps([f"x{i}@^1" for i in range(5000)])}}}',
        f'{{{_SAYS},"tools":["t@{"^1||" * 5000}1"]}}',
        f'{{{_SAYS},"tools":["t@>={"9" * 5000}.0.0"]}}',
        f'{{{_SAYS},"params":{{"stop":{json.dumps(["x" * 50] * 3000)}}}}}',
        f'{{{_SAYS},"params":{{"max_tokens":{"9" * 400}}}}}',
        f'{{{_SAYS},"timeout_s":1e-320}}',
        f'{{{_SAYS},"deadline":"9999-12-31T23:59:59.999-14:00"}}',
        f'{{{_SAYS},"deadline":"0001-01-01T00:00:00+14:00"}}',
        f'{{{_SAYS},"budget":{{"max_cost_usd":1e308,"max_turns":99999999999}}}}',
        f'{{{_SAYS},"guardrail":{{"id":"{"/../" * 500}","version":"\\r\\nX: y"}}}}',
        f'{{{_SAYS},"output":{{"schema":{{"type":"object","description":"{"d" * 300_000}"}}}}}}',
        f'{{"prompt":{{"name":"x","variables":{{"a":{"[" * 60}{"]" * 60}}}}}}}',
        '{"prompt":{"name":"greet.>","version":"*"}}',
        '{"messages":[{"role":"user","content":[{"type":"image","format":"png","source":{"object":"../../x"}}]}]}',
        '{"' + "a" * 300_000 + '":1}',
        "{" + ",".join(f'"k{i}":1' for i in range(20_000)) + "}",
        "{" + _SAYS.replace("x", "\\u0000\\u202e" * 2000) + "}",
        "{",
        "\0" * 1000,
    )
)

TOOL_REPLIES = (
    (
        b"NATS/1.0",
        b"NATS/1.0",
        b"NATS/1.0 503",
        b"NATS/1.0 404 x",
        b"NATS/1.0 100 Idle Heartbeat",
        b"NATS/1.0 \xff",
    ),
    (
        b"A: b",
        b"Nats-Service-Error-Code: x\r\nNats-Service-Error: \xff\xfe",
        b"Nats-Service-Error-Code: " + b"9" * 5000,
        b"Nats-Service-Error-Code: -1\r\nNats-Service-Error: " + b"e" * 30_000,
        b"Nats-Service-Error-Code: 400\r\nNats-Service-Error: a\rb\nc",
        b"Nats-Service-Error: alone",
        b"Llm-Tool-Progress: in_progress",
        b"Llm-Tool-Progress: \xff",
        b"no colon\r\n:",
        b"Llm-Job-Id: globex\r\n" * 300 + b"Status: 503",
    ),
    (
        *(
            b"",
            b"null",
            b"{",
            b'"x"',
            b"\xff\xfe",
            b'{"a":1}',
            b'{"a":NaN}',
            b'{"a":"\\ud800"}',
            b'{"a":"\\u0000\x1b"}',
        ),
        *(b"[" * 20_000, b"9" * 20_000, b'{"a":"' + b"x" * 100_000 + b'"}'),
    ),
)


def _post(*fields: str, path: str = "/drain") -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", *fields, "", "")).encode()


HTTP = (
    bytes.fromhex("16030100a5010000a10303") + os.urandom(150),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"GET /livez\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /drain HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    _post("Host: localhost", path="http://evil.example/drain"),
    *(_post(f"Host: {host}") for host in ("evil.example.", "127.0.0.1@evil.example", "1.2.3.4.evil.example")),
    *(
        _post(f"Host: {host}")
        for host in ("localhost, evil.example", "[::ffff:evil.example]", "evil\u3002example")
    ),
    _post("Host: localhost", "Host: evil.example"),
    _post("Host: ", "Origin: http://evil.example"),
    *(_post("Host: localhost", f"Origin: {origin}") for origin in ("null", "http://localhost:9999")),
    _post("Host: localhost", "Sec-Fetch-Site: cross-site"),
    _post("Host: evil.example", "Transfer-Encoding: chunked", "Content-Length: 5")
    + b"ffffffffff\r\n"
    + b"x" * 9999,
    _post("Host: localhost", "Content-Length: 50", path="/livez") + _post("Host: localhost"),
    os.urandom(3000),
)

POLICIES = tuple(
    policy.encode()
    for policy in (
        *(f"[tenants.acme]\nweight = {value}\n" for value in ("nan", "inf", "-1", "0", "1e-308", "9" * 5000)),
        *(f"[tenants.acme]\n{key} = {value}\n" for key in ("max_queue", "max_concurrency") for value in (0, -5)),
        *(f"[tenants.acme]\nbudget_usd_per_day = {value}\n" for value in ("0", "1e300", "nan")),
        '[tenants.acme]\nfilters = ["none"]\n',
        "[classes.batch]\nweight = 0\n",
        "[classes.other]\nweight = 1\n",
        '[models."claude-sonnet-4-5"]\ntokens_per_minute = -1\n',
        '[job_tools."llm.job"]\ndescription = "x"\nprompt = "{{task}}"\nmax_tokens = -1\n',
        '[nats]\nurl = "nats://elsewhere"\n',
        '[tools]\nload = ["os:system"]\n',
        "[" * 50_000,
        "{" * 50_000,
        '{"tenants":' * 5000,
        "x" * 500_000,
        "a = 1979-05-27T07:32:00Z\n",
        "\0",
    )
)
