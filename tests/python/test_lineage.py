"""A run's OpenLineage events as OpenLineage's own client takes them.

    CUREC_EVENTS=<file of events, one a line> python tests/python/test_lineage.py

The classes of openlineage-python are generated from OpenLineage's JSON schema. Here each event is built of them, strictly:
a key that the schema does not have, one that is missing, a value of another type, a facet under a name or in a version that
is not the schema's fails. Without CUREC_EVENTS only the checks of the checker run; tests/cli/watch.rs sets it after runs of
its own. Without openlineage-python everything is skipped, unless CUREC_EVENTS is set: then that is a failure.
"""

import copy
import datetime
import enum
import json
import os
import types
import typing
import unittest
from pathlib import Path

EVENTS = os.environ.get("CUREC_EVENTS", "")

try:
    import attr
    from openlineage.client.generated import (
        base,
        error_message_run,
        input_statistics_input_dataset,
        job_type_job,
        nominal_time_run,
        output_statistics_output_dataset,
        processing_engine_run,
        schema_dataset,
    )
except ImportError:
    if EVENTS:
        raise
    raise unittest.SkipTest("openlineage-python is not installed (ci/test-requirements.txt)")

# The facets that curec writes, by the class that holds them and their key there. Each has one name in the specification.
FACETS = {
    ("Run", "facets"): {
        "nominalTime": nominal_time_run.NominalTimeRunFacet,
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
        "errorMessage": error_message_run.ErrorMessageRunFacet,
    },
    ("Job", "facets"): {"jobType": job_type_job.JobTypeJobFacet},
    ("InputDataset", "facets"): {"schema": schema_dataset.SchemaDatasetFacet},
    ("OutputDataset", "facets"): {"schema": schema_dataset.SchemaDatasetFacet},
    ("InputDataset", "inputFacets"): {
        "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet
    },
    ("OutputDataset", "outputFacets"): {
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    },
}


def built(kind, value, place):
    """The value as the schema's class or plain type; ValueError or TypeError where it is not one."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
        return built(kind, value, place)
    if origin is list:
        if not isinstance(value, list):
            raise TypeError(f"{place} is no list")
        (inner,) = typing.get_args(kind)
        return [built(inner, v, f"{place}[{n}]") for n, v in enumerate(value)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if attr.has(kind):
        return built_object(kind, value, place)
    if type(value) is not kind:
        raise TypeError(f"{place} is {type(value).__name__}, not {kind.__name__}")
    return value


def built_object(kind, value, place):
    if not isinstance(value, dict):
        raise TypeError(f"{place} is no object")
    hints = typing.get_type_hints(kind)
    form = "_schemaURL" if "_schemaURL" in {field.name for field in attr.fields(kind)} else "schemaURL"
    arguments = {}
    known = {field.name: field for field in attr.fields(kind)}
    for key, inner in value.items():
        at = f"{place}.{key}"
        if key not in known:
            raise ValueError(f"{at} is not in the schema")
        if key == form:
            if inner != kind._get_schema():
                raise ValueError(f"{at} is {inner}, not {kind._get_schema()}")
            continue
        facets = FACETS.get((kind.__name__, key))
        if facets is not None:
            unknown = set(inner) - set(facets)
            if unknown:
                raise ValueError(f"{at} has {unknown}")
            arguments[key] = {name: built(facets[name], facet, f"{at}.{name}") for name, facet in inner.items()}
        else:
            arguments[known[key].alias] = built(hints[key], inner, at)
    # The client has defaults for these; the schema requires them.
    required = {"producer", "schemaURL", "_producer", "_schemaURL"} & set(known)
    if required - set(value):
        raise ValueError(f"{place} lacks {required - set(value)}")
    return kind(**arguments)


def event_of(value):
    event = built(base.RunEvent, value, "event")
    moment = datetime.datetime.fromisoformat(event.eventTime)
    if moment.tzinfo is None:
        raise ValueError("eventTime has no time zone")
    return event


def facet(kind, **told):
    return {"_producer": "urn:curec:0", "_schemaURL": kind._get_schema(), **told}


def example():
    """A good event with everything that curec writes."""
    schema = facet(schema_dataset.SchemaDatasetFacet, fields=[{"name": "a", "type": "utf8", "description": "It."}])
    amount = {"rowCount": 1, "size": 2, "fileCount": 1}
    inputs = facet(input_statistics_input_dataset.InputStatisticsInputDatasetFacet, **amount)
    outputs = facet(output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet, **amount)
    table = {"namespace": "file", "name": "/t", "facets": {"schema": schema}}
    return {
        "eventType": "FAIL",
        "eventTime": "2026-01-20T03:00:00.000Z",
        "producer": "urn:curec:0",
        "schemaURL": base.RunEvent._get_schema(),
        "run": {
            "runId": "019bd8f6-7b3a-7d1c-9a2b-0123456789ab",
            "facets": {
                "errorMessage": facet(error_message_run.ErrorMessageRunFacet, message="no", programmingLanguage="RUST")
            },
        },
        "job": {"namespace": "curec", "name": "night", "facets": {}},
        "inputs": [{**table, "inputFacets": {"inputStatistics": inputs}}],
        "outputs": [{**table, "outputFacets": {"outputStatistics": outputs}}],
    }


class Checker(unittest.TestCase):
    def test_a_good_event_passes(self):
        event_of(example())

    def test_whatever_breaks_the_schema_is_found(self):
        def without(path, key):
            def change(event):
                del path(event)[key]
            return change

        def with_(path, key, value):
            def change(event):
                path(event)[key] = value
            return change

        whole, run, table = lambda e: e, lambda e: e["run"], lambda e: e["outputs"][0]
        amount = lambda e: e["outputs"][0]["outputFacets"]["outputStatistics"]  # noqa: E731
        for name, change in {
            "no job": without(whole, "job"),
            "no moment": without(whole, "eventTime"),
            "no producer": without(whole, "producer"),
            "an unknown state": with_(whole, "eventType", "DONE"),
            "an unknown key": with_(whole, "extra", 1),
            "no UUID": with_(run, "runId", "night-1"),
            "a local moment": with_(whole, "eventTime", "2026-01-20T03:00:00"),
            "no name": without(table, "name"),
            "rows as a text": with_(amount, "rowCount", "1"),
            "no form of a facet": without(amount, "_schemaURL"),
            "another form of a facet": with_(amount, "_schemaURL", "https://openlineage.io/x"),
            "an unknown facet": with_(lambda e: e["run"]["facets"], "error", {}),
        }.items():
            event = copy.deepcopy(example())
            change(event)
            with self.subTest(name), self.assertRaises((TypeError, ValueError, KeyError)):
                event_of(event)


@unittest.skipUnless(EVENTS, "CUREC_EVENTS names no file")
class Events(unittest.TestCase):
    def test_every_event_is_as_the_schema_wants_it(self):
        lines = Path(EVENTS).read_text(encoding="utf-8").splitlines()
        self.assertTrue(lines, "there are no events")
        runs = {}
        for n, line in enumerate(lines, start=1):
            with self.subTest(line=n):
                event = event_of(json.loads(line))
                runs.setdefault(event.run.runId, []).append(event.eventType.value)
        for run, states in runs.items():
            with self.subTest(run=run):
                self.assertEqual(states[0], "START")
                self.assertIn(states[-1], ("COMPLETE", "FAIL", "ABORT"))
                self.assertTrue(set(states[1:-1]) <= {"RUNNING"}, states)


if __name__ == "__main__":
    unittest.main()
