"""What a client in another language sees: stubs from grpcio-tools, nothing of Runmesh but its protos.

Started by tests/foreign/python.rs with the mesh's address in MESH_GRPC and the stubs in PYTHONPATH.
"""

import os
import threading
import unittest
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runmesh.event.v1 import types_pb2
from runmesh.execution.v1 import execution_pb2, execution_service_pb2, execution_service_pb2_grpc
from runmesh.result.v1 import result_service_pb2, result_service_pb2_grpc

BOUND = 60  # seconds; only met when something is broken

TERMINAL = {"execution_completed", "execution_failed", "execution_timeout", "execution_cancelled"}


def spec(language, script, **more):
    return execution_pb2.ExecutionSpec(language=language, script=script, **more)


def details(error, kind):
    """The detail of one kind in an error, as google.rpc has it."""
    status = rpc_status.from_call(error)
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            return message
    return None


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.channel = grpc.insecure_channel(os.environ["MESH_GRPC"])
        self.addCleanup(self.channel.close)
        self.executions = execution_service_pb2_grpc.ExecutionServiceStub(self.channel)
        self.results = result_service_pb2_grpc.ResultServiceStub(self.channel)

    def create(self, spec, request_id=""):
        request = execution_service_pb2.CreateExecutionRequest(request_id=request_id, spec=spec)
        return self.executions.CreateExecution(request, timeout=BOUND).execution

    def watch(self, execution_id, cursor=""):
        request = execution_service_pb2.WatchExecutionRequest(execution_id=execution_id, cursor=cursor)
        return self.executions.WatchExecution(request, timeout=BOUND)

    def cancel(self, execution_id):
        request = execution_service_pb2.CancelExecutionRequest(execution_id=execution_id, reason="by Python")
        return self.executions.CancelExecution(request, timeout=BOUND).execution

    def check_complete(self, messages):
        self.assertEqual(messages[-1].WhichOneof("item"), "end")
        events = [message.event for message in messages[:-1]]
        sequences = [event.sequence for event in events]
        self.assertEqual(sequences[0], 1)
        self.assertEqual(sequences, sorted(set(sequences)))
        kinds = [event.WhichOneof("payload") for event in events]
        self.assertEqual(len([kind for kind in kinds if kind in TERMINAL]), 1, kinds)
        return kinds

    @staticmethod
    def stdout(messages):
        pieces = [message.event.execution_output for message in messages if message.event.HasField("execution_output")]
        return b"".join(piece.data for piece in pieces if piece.stream == types_pb2.OUTPUT_STREAM_STDOUT)

    def test_create_and_watch_every_event_to_the_end(self):
        execution = self.create(spec("python", "print('hello')\nprint('again')"))
        self.assertEqual(str(uuid.UUID(execution.execution_id)), execution.execution_id)
        messages = list(self.watch(execution.execution_id))
        kinds = self.check_complete(messages)
        self.assertEqual(kinds[0], "execution_requested")
        for kind in ["execution_started", "execution_output", "execution_completed", "result_stored"]:
            self.assertIn(kind, kinds)
        self.assertEqual(self.stdout(messages), b"hello\nagain\n")
        end = messages[-1].end.execution
        self.assertEqual(end.state, execution_pb2.EXECUTION_STATE_COMPLETED)
        self.assertEqual(end.exit_code, 0)
        result = self.results.GetResult(
            result_service_pb2.GetResultRequest(execution_id=execution.execution_id), timeout=BOUND
        ).result
        self.assertEqual(result.stdout, b"hello\nagain\n")

    def test_events_come_while_the_script_runs(self):
        execution = self.create(spec("bash", "echo first; sleep 600"))
        stream = self.watch(execution.execution_id)
        first = next(message for message in stream if message.event.HasField("execution_output"))
        self.assertEqual(first.event.execution_output.data, b"first\n")
        self.cancel(execution.execution_id)
        rest = list(stream)
        self.assertEqual(rest[-1].end.execution.state, execution_pb2.EXECUTION_STATE_CANCELLED)

    def test_cancel_from_another_thread_ends_a_watch(self):
        execution = self.create(spec("bash", "echo ready; sleep 600"))
        messages = []

        def watch():
            messages.extend(self.watch(execution.execution_id))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        next(message for message in self.watch(execution.execution_id) if message.event.HasField("execution_output"))
        self.cancel(execution.execution_id)
        watcher.join(BOUND)
        self.assertFalse(watcher.is_alive())
        self.assertIn("execution_cancelled", self.check_complete(messages))

    def test_list_has_what_was_created_newest_first(self):
        label = uuid.uuid4().hex
        ids = [self.create(spec("bash", "true", labels={"test": label})).execution_id for _ in range(3)]
        seen, token = [], ""
        while True:
            request = execution_service_pb2.ListExecutionsRequest(
                page_size=2, page_token=token, labels=[f"test={label}"]
            )
            page = self.executions.ListExecutions(request, timeout=BOUND)
            seen.extend(execution.execution_id for execution in page.executions)
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(seen, ids[::-1])

    def test_the_same_request_id_is_the_same_execution(self):
        request_id = uuid.uuid4().hex
        first = self.create(spec("bash", "echo once"), request_id)
        again = self.create(spec("bash", "echo once"), request_id)
        self.assertEqual(again.execution_id, first.execution_id)
        with self.assertRaises(grpc.RpcError) as raised:
            self.create(spec("bash", "echo twice"), request_id)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.ALREADY_EXISTS)
        bad = details(raised.exception, error_details_pb2.BadRequest)
        self.assertEqual([violation.field for violation in bad.field_violations], ["request_id"])

    def test_errors_name_the_bad_fields(self):
        bad_spec = spec("klingon", "")
        bad_spec.limits.wall_time.seconds = -5
        with self.assertRaises(grpc.RpcError) as raised:
            self.create(bad_spec)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        bad = details(raised.exception, error_details_pb2.BadRequest)
        fields = {violation.field for violation in bad.field_violations}
        self.assertEqual(fields, {"spec.language", "spec.script", "spec.limits.wall_time"})
        self.assertTrue(all(violation.description for violation in bad.field_violations))
        info = details(raised.exception, error_details_pb2.ErrorInfo)
        self.assertEqual(info.domain, "runmesh")
        self.assertTrue(info.reason)

    def test_an_unknown_execution_is_not_found(self):
        with self.assertRaises(grpc.RpcError) as raised:
            list(self.watch(str(uuid.uuid4())))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)
        info = details(raised.exception, error_details_pb2.ErrorInfo)
        self.assertEqual(info.reason, "EXECUTION_NOT_FOUND")

    def test_a_watch_that_was_cut_resumes_with_its_cursor(self):
        execution = self.create(spec("bash", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done"))
        messages = []
        # Cut after two messages each, until the end comes.
        while not (messages and messages[-1].HasField("end")):
            stream = self.watch(execution.execution_id, messages[-1].cursor if messages else "")
            for count, message in enumerate(stream, 1):
                messages.append(message)
                if count == 2:
                    stream.cancel()
                    break
        self.check_complete(messages)
        self.assertEqual(self.stdout(messages), b"1\n2\n3\n4\n5\n6\n")
        self.assertEqual(messages, list(self.watch(execution.execution_id)))
        self.assertEqual(list(self.watch(execution.execution_id, messages[-1].cursor)), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
