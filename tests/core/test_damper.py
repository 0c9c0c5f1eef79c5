"""Changes of lists, told once for all servers that change one after the other: the first at once, the last never lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.damper import WINDOW, Damper
from mcpbridge.wire import message as m

TOOLS = "notifications/tools/list_changed"
PROMPTS = "notifications/prompts/list_changed"


class Timer:
    def __init__(self, when: float, run: Callable[[], None]) -> None:
        self.when = when
        self.run = run
        self.is_over = False

    def cancel(self) -> None:
        self.is_over = True


class World:
    """A damper with a clock of the test. ``told``: when, and what."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.told: list[tuple[float, m.Notification]] = []
        self.damper = Damper(lambda notification: self.told.append((self.now, notification)), self.later)

    def later(self, seconds: float, run: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, run))
        return self.timers[-1]

    def until(self, end: float) -> None:
        while due := [timer for timer in self.timers if timer.when <= end and not timer.is_over]:
            timer = min(due, key=lambda timer: timer.when)
            self.now, timer.is_over = timer.when, True
            timer.run()
        self.now = end

    def notify(self, method: str, number: int = 0) -> m.Notification:
        notification = m.notification(method, {"n": number})
        self.damper.notify(notification)
        return notification


def test_the_first_is_told_at_once_and_of_those_that_follow_the_newest_when_the_window_is_over() -> None:
    world = World()
    first = world.notify(TOOLS)
    assert world.told == [(0.0, first)]
    world.notify(TOOLS, 1)
    last = world.notify(TOOLS, 2)
    world.until(WINDOW / 2)
    assert len(world.told) == 1
    world.until(WINDOW)
    assert world.told[1:] == [(WINDOW, last)]
    again = world.notify(TOOLS, 3)  # its window is open anew
    world.until(10)
    assert world.told[2:] == [(2 * WINDOW, again)]
    world.notify(TOOLS, 4)
    assert world.told[-1][0] == 10


def test_each_kind_has_a_window_of_its_own_and_other_messages_have_none() -> None:
    world = World()
    for method in (TOOLS, PROMPTS, "notifications/resources/list_changed"):
        world.notify(method)
    for method in ("notifications/resources/updated", "notifications/message", "notifications/tasks") * 2:
        world.notify(method)
    assert len(world.told) == 9


def test_a_client_that_is_gone_is_told_nothing_more() -> None:
    world = World()
    world.notify(TOOLS)
    world.notify(TOOLS)
    world.damper.close()
    world.until(10)
    assert len(world.told) == 1
    assert all(timer.is_over for timer in world.timers)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([TOOLS, PROMPTS])), max_size=40))
def test_never_two_of_a_kind_in_one_window_and_always_one_after_the_last_change(steps: list[tuple[float, str]]) -> None:
    world = World()
    last: dict[str, float] = {}
    for number, (pause, method) in enumerate(steps):
        world.until(world.now + pause)
        last[method] = world.now
        world.notify(method, number)
    world.until(world.now + 1)
    for method, when in last.items():
        times = [time for time, notification in world.told if notification.method == method]
        assert when <= times[-1] <= when + WINDOW
        assert all(later - earlier >= WINDOW - 1e-9 for earlier, later in pairwise(times))
