"""The questions of the task that ships are those that its script makes."""

from examples.make_demo_task import QUESTIONS, questions_text


def test_the_script_makes_the_questions_that_ship():
    assert questions_text() == QUESTIONS.read_text(encoding="utf-8")
