"""The retry policy: attempts with growing pauses; a request to stop ends each pause at once."""

from __future__ import annotations

import contextvars
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import tenacity

from sync.errors import DeferredError, StoppedError
from sync.logs import activity, logger
from sync.salesforce.session.limits import LONGEST_RETRY_AFTER
from sync.salesforce.session.rules import Transient

log = logger.get("sync.salesforce.session")
T = TypeVar("T")

# An org that runs too many long requests at once: it gets pauses of 5, 10, 20, 40 and then 60 seconds, a
# quarter of them random.
BUSY_FIRST, BUSY_ATTEMPTS, BUSY_TOTAL, JITTER = 5.0, 15, 720.0, 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The limits of retries: number, total and longest pause (seconds); `scale` 0 turns waiting off, for
    tests.

    `defers`: a Retry-After beyond the limit raises DeferredError; otherwise it is a failure.
    """

    attempts: int = 6
    total: float = 300
    longest: float = 60
    scale: float = 1
    defers: bool = True


def run_attempts(policy: RetryPolicy, stop: threading.Event, attempt: Callable[[], T]) -> T:
    """Try a call by the policy; raise its last error, or StoppedError as soon as the process is asked to
    stop."""

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, Transient) else 0
        if is_busy(error):
            backoff = min(policy.longest, BUSY_FIRST * 2.0 ** (state.attempt_number - 1))
            backoff *= random.uniform(1 - JITTER, 1)
        else:
            backoff = tenacity.wait_random_exponential(multiplier=1, max=policy.longest)(state)
        return policy.scale * max(backoff, retry_after)

    def note(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "salesforce_retry",
            attempt=state.attempt_number,
            wait_s=round(state.upcoming_sleep, 1),
            reason=str(error)[:300],
        )

    usual, patient = limits_of(policy), limits_of(patient_policy(policy))

    def is_over(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        return bool((patient if is_busy(error) else usual)(state)) or is_exhausted(state)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(worth_waiting_for),
        stop=is_over,
        wait=wait,
        sleep=tenacity.sleep_using_event(stop),
        before_sleep=note,
        reraise=True,
    )
    try:
        return cast("T", retrying(run_interruptible, stop, attempt))
    except Transient as last:
        if last.retry_after > LONGEST_RETRY_AFTER and policy.defers:
            raise DeferredError(
                f"{last.error}; Retry-After asks to wait {format_seconds(last.retry_after)}, more than one "
                f"call may wait ({LONGEST_RETRY_AFTER:.0f} seconds): a later run tries again"
            ) from None
        raise last.error from None


def limits_of(policy: RetryPolicy) -> tenacity.stop.stop_base:
    """Return what ends the attempts of a policy."""
    return tenacity.stop_any(
        tenacity.stop_after_attempt(policy.attempts), tenacity.stop_before_delay(policy.total)
    )


def patient_policy(policy: RetryPolicy) -> RetryPolicy:
    """Return the policy while the org refuses requests because it runs too many; calls that the work can do
    without get no more attempts than usual."""
    if not policy.defers:
        return policy
    return replace(policy, attempts=max(policy.attempts, BUSY_ATTEMPTS), total=max(policy.total, BUSY_TOTAL))


def is_busy(error: BaseException | None) -> bool:
    """Return whether the org refused a request because it runs too many at once."""
    return isinstance(error, Transient) and error.busy


def is_exhausted(state: tenacity.RetryCallState) -> bool:
    """Return whether the kind of failure allows no further attempt."""
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, Transient) and 0 < error.tries <= state.attempt_number


def worth_waiting_for(error: BaseException) -> bool:
    """Return whether another attempt may succeed within the time that one call may take."""
    return isinstance(error, Transient) and error.retry_after <= LONGEST_RETRY_AFTER


def format_seconds(seconds: float) -> str:
    """Return a number of seconds as text."""
    return f"{seconds:,.0f} seconds" if seconds <= 30 * 86400 else "more than a month"


def run_interruptible(stop: threading.Event, attempt: Callable[[], T]) -> T:
    """Run an attempt in a thread, which is abandoned when the process is asked to stop.

    A page may take minutes; a dyno has 30 seconds to stop.
    """
    if stop.is_set():
        raise StoppedError
    activity.report()
    result: list[T] = []
    failure: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            result.append(attempt())
        except BaseException as error:  # noqa: BLE001 — passed to the caller, which raises it
            failure.append(error)
        done.set()

    # In the caller's context, so that waiting for other requests counts as activity of the caller's job.
    inside = contextvars.copy_context().run
    threading.Thread(target=inside, args=(run,), name="salesforce-call", daemon=True).start()
    while not done.wait(0.1):
        if stop.is_set():
            raise StoppedError
    if failure:
        raise failure[0]
    return result[0]
