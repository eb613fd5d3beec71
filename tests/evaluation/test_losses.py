"""The evaluation against slow references: token by token, and as in transformers' documentation.

The models are tiny, random and far from uniform, so that one token of context more or less shows in a loss.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fusion_slerp.evaluation.losses import position_limit, ready, token_losses, windows

VOCAB_SIZE = 61
POSITIONS = 24


pytestmark = pytest.mark.usefixtures("one_thread")


def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=POSITIONS, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module", params=[llama, gpt2], ids=["llama", "gpt2"])
def model(request):
    return request.param()


def random_ids(n_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB_SIZE, (n_tokens,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def loss_of_token(
    model: nn.Module, ids: torch.Tensor, position: int, context_length: int, stride: int
) -> float:
    """The loss of one token, from the first window that holds it, cut off right before it."""
    start = 0
    while start + context_length <= position:
        start += stride
    logits = model(input_ids=ids[None, start:position]).logits[0, -1].double()
    return -logits.log_softmax(-1)[ids[position]].item()


@torch.no_grad()
def documented_sums(
    model: nn.Module, ids: torch.Tensor, context_length: int, stride: int
) -> tuple[float, int, int]:
    """The loop of transformers' documentation: sum of losses, labels that were scored, and its own count."""
    nll_sum, n_scored, n_documented, previous_end = 0.0, 0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context_length, len(ids))
        window = ids[None, begin:end]
        labels = window.clone()
        labels[:, : -(end - previous_end)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        nll_sum += model(input_ids=window, labels=labels).loss.item() * scored
        n_scored += scored
        n_documented += int((labels != -100).sum()) - 1
        previous_end = end
        if end == len(ids):
            break
    return nll_sum, n_scored, n_documented


SHAPES = [(22, 8, 4), (20, 8, 3), (24, 24, 23), (25, 24, 12), (9, 8, 7), (2, 2, 1), (11, 2, 1)]


@pytest.mark.parametrize(("n_tokens", "context_length", "stride"), SHAPES)
def test_each_loss_is_that_of_the_token_after_its_context(model, n_tokens, context_length, stride):
    ids = random_ids(n_tokens)
    [losses] = token_losses(model, [ids], context_length=context_length, stride=stride, batch_size=3)
    expected = [loss_of_token(model, ids, p, context_length, stride) for p in range(1, n_tokens)]
    assert losses.dtype == torch.float64
    assert losses.tolist() == pytest.approx(expected, abs=2e-5)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(2, 16), st.data())
def test_documents_of_any_lengths(lengths, context_length, data):
    model = gpt2()
    stride = data.draw(st.integers(1, context_length - 1))
    batch_size = data.draw(st.integers(1, 5))
    documents = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    options = {"context_length": context_length, "stride": stride}
    losses = token_losses(model, documents, batch_size=batch_size, **options)
    for ids, row in zip(documents, losses, strict=True):
        expected = [loss_of_token(model, ids, p, **options) for p in range(1, len(ids))]
        assert row.tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("n_tokens", "context_length", "stride"), SHAPES)
def test_the_mean_is_that_of_the_documentation_with_the_labels_counted(
    model, n_tokens, context_length, stride
):
    ids = random_ids(n_tokens)
    [losses] = token_losses(model, [ids], context_length=context_length, stride=stride, batch_size=8)
    nll_sum, n_scored, n_documented = documented_sums(model, ids, context_length, stride)
    assert len(losses) == n_scored == n_tokens - 1
    assert losses.mean().item() == pytest.approx(nll_sum / n_scored, abs=1e-5)
    n_windows = len(list(windows(n_tokens, context_length, stride)))
    assert n_documented == n_scored - (n_windows - 1)  # one too small for each window but the first


@given(st.integers(0, 300), st.integers(2, 40), st.data())
def test_windows_score_every_position_but_the_first_once(n_tokens, context_length, data):
    stride = data.draw(st.integers(1, context_length - 1))
    found = list(windows(n_tokens, context_length, stride))
    scored = [position for window in found for position in range(window.first_scored, window.stop)]
    assert scored == list(range(1, n_tokens))
    assert [window.start for window in found] == [stride * i for i in range(len(found))]
    assert all(window.start < window.first_scored < window.stop for window in found)
    assert all(window.stop == min(window.start + context_length, n_tokens) for window in found)


def test_batches_change_rounding_only(model):
    documents = [random_ids(n, n) for n in (50, 3, 1, 50, 0, 24)]
    one, many = (
        torch.cat(token_losses(model, documents, context_length=10, stride=5, batch_size=n)) for n in (1, 64)
    )
    assert len(one) == 49 + 2 + 49 + 23
    torch.testing.assert_close(one, many, atol=1e-5, rtol=0)


def test_documents_do_not_see_each_other(model):
    documents = [random_ids(30, 1), random_ids(30, 2)]
    options = {"context_length": 8, "stride": 4, "batch_size": 4}
    together = token_losses(model, documents, **options)
    alone = [token_losses(model, [ids], **options)[0] for ids in documents]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


class BareModel(nn.Module):
    """A model whose forward takes token ids and nothing else; it notes the shapes it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids):
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.inner(input_ids=input_ids).logits)


def test_windows_of_equal_shape_share_a_batch_and_nothing_is_padded():
    bare = BareModel(llama())
    token_losses(bare, [random_ids(27)] * 2, context_length=8, stride=4, batch_size=3)
    assert sorted(bare.shapes) == [(2, 7), (2, 8), (2, 8), (3, 8), (3, 8)]


def test_the_head_runs_on_scored_positions_only(model):
    heads = []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, __: heads.append(inputs[0].shape[1]))
    ids = random_ids(24)
    scored = token_losses(model, [ids], context_length=16, stride=8, batch_size=1)
    hook.remove()
    assert heads == [16, 9]
    whole = token_losses(BareModel(model), [ids], context_length=16, stride=8, batch_size=1)
    torch.testing.assert_close(scored, whole, atol=1e-5, rtol=0)


def test_no_cache_is_built(model):
    seen = []
    hook = model.register_forward_pre_hook(lambda *arguments: seen.append(arguments[2]), with_kwargs=True)
    token_losses(model, [random_ids(5)], context_length=4, stride=2, batch_size=1)
    hook.remove()
    assert [kwargs["use_cache"] for kwargs in seen] == [False, False]


def test_the_softmax_in_slices_is_the_softmax(model, monkeypatch):
    options = {"context_length": 16, "stride": 8, "batch_size": 2}
    whole = token_losses(model, [random_ids(40)], **options)
    monkeypatch.setattr("fusion_slerp.evaluation.losses.ROWS_PER_SOFTMAX", 3)
    torch.testing.assert_close(token_losses(model, [random_ids(40)], **options), whole, atol=1e-6, rtol=0)


def test_bfloat16_weights_stay_and_logits_are_widened():
    model = llama().to(torch.bfloat16)
    ids = random_ids(24)
    [losses] = token_losses(model, [ids], context_length=24, stride=12, batch_size=1)
    logits = model(input_ids=ids[None]).logits[0, :-1]
    expected = nn.functional.cross_entropy(logits.double(), ids[1:], reduction="none")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(losses, expected.detach(), atol=1e-5, rtol=0)


def test_position_limit_reads_the_names_in_use():
    assert position_limit(llama().config) == position_limit(gpt2().config) == POSITIONS
    assert position_limit(SimpleNamespace(max_seq_len=7)) == 7
    assert position_limit(SimpleNamespace(n_positions=None)) is None


def test_ready_puts_every_module_back():
    model = gpt2().train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    with ready(model, "cpu"):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_ready_puts_the_model_back_after_an_error():
    model = gpt2().train()
    with pytest.raises(ZeroDivisionError), ready(model, "cpu"):
        _ = 1 / 0
    assert model.training


class Travelling(nn.Module):
    """Says that its parameters are on the given devices, and notes where it is sent."""

    def __init__(self, *devices: str) -> None:
        super().__init__()
        self.devices = devices
        self.stops: list[str] = []

    def parameters(self):
        return (SimpleNamespace(device=torch.device(device)) for device in self.devices)

    def to(self, device):
        self.stops.append(str(device))
        return self


@pytest.mark.parametrize(
    ("home", "device", "cuda", "stops"),
    [
        (["cpu"], "auto", True, ["cuda", "cpu"]),
        (["cpu"], "auto", False, []),
        (["cpu"], "cpu", True, []),
        (["cpu"], "cuda:1", True, ["cuda:1", "cpu"]),
        (["cuda:1"], "auto", True, []),
        (["cuda:1"], "cpu", True, ["cpu", "cuda:1"]),
        (["cuda:0", "cuda:1"], "cpu", True, []),
    ],
)
def test_ready_moves_the_model_there_and_back(monkeypatch, home, device, cuda, stops):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    model = Travelling(*home)
    with ready(model, device):
        pass
    assert model.stops == stops
