"""A run's spans as OpenTelemetry's own messages.

    CUREC_TRACES=<file of requests to /v1/traces, one a line> python tests/python/test_traces.py

Each request is read into the message of OTLP's protocol buffers, strictly: a key that the protocol does not have or a value of
another type fails. Then what the protocol says in words is looked at: lengths of ids, who stands under whom, times. Without
CUREC_TRACES only the checks of the checker run; tests/cli/watch.rs sets it after runs of its own. Without opentelemetry-proto
everything is skipped, unless CUREC_TRACES is set: then that is a failure.
"""

import base64
import copy
import json
import os
import unittest
from pathlib import Path

TRACES = os.environ.get("CUREC_TRACES", "")

try:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError:
    if TRACES:
        raise
    raise unittest.SkipTest("opentelemetry-proto is not installed (ci/test-requirements.txt)")

IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def request_of(value):
    """The message; ValueError or json_format.ParseError where it is none."""
    value = copy.deepcopy(value)
    for resource in value["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key, length in IDS.items():
                    if key in span:
                        # Hexadecimal in OTLP's JSON, unlike other bytes in the JSON of protocol buffers.
                        id = bytes.fromhex(span[key])
                        if len(id) != length or not any(id):
                            raise ValueError(f"{key} is {span[key]}")
                        span[key] = base64.b64encode(id).decode()
    request = json_format.ParseDict(value, ExportTraceServiceRequest())
    for resource in request.resource_spans:
        if "service.name" not in [attribute.key for attribute in resource.resource.attributes]:
            raise ValueError("there is no service.name")
        for scope in resource.scope_spans:
            whole, steps = scope.spans[0], scope.spans[1:]
            if len({span.span_id for span in scope.spans}) != len(scope.spans):
                raise ValueError("two spans have one id")
            for span in scope.spans:
                if not span.name or span.kind != Span.SPAN_KIND_INTERNAL:
                    raise ValueError(f"the kind of `{span.name}` is {span.kind}")
                if not 0 < span.start_time_unix_nano <= span.end_time_unix_nano:
                    raise ValueError(f"`{span.name}` ends before it begins")
                if span.trace_id != whole.trace_id:
                    raise ValueError(f"`{span.name}` is of another trace")
            for step in steps:
                if step.parent_span_id != whole.span_id:
                    raise ValueError(f"`{step.name}` does not stand under its run")
    return request


def example():
    """A good request with everything that curec writes."""
    span = {
        "traceId": "019bd8f67b3a7d1c9a2b0123456789ab", "spanId": "00f067aa0ba902b7", "flags": 1, "name": "curec run", "kind": 1,
        "startTimeUnixNano": "1768971600250000000", "endTimeUnixNano": "1768971602750000000",
        "attributes": [{"key": "a", "value": {"stringValue": "x"}}, {"key": "b", "value": {"intValue": "7"}}],
        "status": {"code": 2, "message": "no"},
    }
    step = {**span, "spanId": "00f067aa0ba902b8", "parentSpanId": span["spanId"], "name": "generate"}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "curec"}}]}
    scopes = [{"scope": {"name": "curec", "version": "0"}, "spans": [span, copy.deepcopy(step)]}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}


class Checker(unittest.TestCase):
    def test_a_good_request_passes(self):
        self.assertEqual(len(request_of(example()).resource_spans[0].scope_spans[0].spans), 2)

    def test_whatever_breaks_the_protocol_is_found(self):
        for name, change in {
            "an unknown key": {"spanID": "00f067aa0ba902b7"},
            "a short id": {"spanId": "00f067aa"},
            "an id of zeros": {"traceId": "0" * 32},
            "no hexadecimal": {"traceId": "x" * 32},
            "another parent": {"parentSpanId": "00f067aa0ba902b9"},
            "another trace": {"traceId": "119bd8f67b3a7d1c9a2b0123456789ab"},
            "the run's own id": {"spanId": "00f067aa0ba902b7"},
            "an end before the beginning": {"endTimeUnixNano": "1768971600250000000", "startTimeUnixNano": "1768971600250000001"},
            "a moment as text": {"startTimeUnixNano": "2026-01-20T03:00:00Z"},
            "an unknown kind": {"kind": 0},
            "an unknown attribute": {"attributes": [{"key": "a", "value": {"textValue": "x"}}]},
            "a status in words": {"status": "ERROR"},
        }.items():
            request = example()
            request["resourceSpans"][0]["scopeSpans"][0]["spans"][1].update(change)
            with self.subTest(name), self.assertRaises((ValueError, json_format.ParseError)):
                request_of(request)


@unittest.skipUnless(TRACES, "CUREC_TRACES names no file")
class Traces(unittest.TestCase):
    def test_every_request_is_as_the_protocol_wants_it(self):
        lines = Path(TRACES).read_text(encoding="utf-8").splitlines()
        self.assertTrue(lines, "there are no requests")
        for n, line in enumerate(lines, start=1):
            with self.subTest(line=n):
                request_of(json.loads(line))


if __name__ == "__main__":
    unittest.main()
