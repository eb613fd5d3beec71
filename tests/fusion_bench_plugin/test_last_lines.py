"""What a run of FusionBench ends with, in order, once."""

import subprocess
import sys

from fusion_slerp.fusion_bench_plugin.last_lines import show_last, show_waiting


def test_lines_wait_for_the_next_run(capsys):
    show_last(lambda: print("the merge"))
    show_last(lambda: print("the table"))
    assert capsys.readouterr().out == ""
    show_waiting()
    assert capsys.readouterr().out == "the merge\nthe table\n"
    show_waiting()
    assert capsys.readouterr().out == ""


def test_lines_wait_for_the_end_of_the_process():
    code = (
        "from fusion_slerp.fusion_bench_plugin.last_lines import show_last\n"
        "show_last(lambda: print('the merge'))\n"
        "show_last(lambda: print('the table'))\n"
        "print('the report')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the report", "the merge", "the table"]
