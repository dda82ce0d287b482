"""A call uses the tensors of its language, whatever happened before and whatever else is running."""

from __future__ import annotations

import copy
import gc
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from networks import base_weights
from packs import TEXTS, make_pack
from stock_speech import SENTENCES, WAYS, load, speak, voice
from TTS.api import TTS
from TTS.tts.models.xtts import Xtts

import xtts_extend
from xtts_extend.errors import LanguageError, PackError
from xtts_extend.model.blank import BlankWeights
from xtts_extend.pack.file import Pack
from xtts_extend.pack.route import RESIDENT, attach, enable, routed
from xtts_extend.text.vocabulary import load_vocabulary

TEXT = {**TEXTS, "en": SENTENCES["en"], "es": SENTENCES["es"]}
EQUAL = {"rtol": 0, "atol": 0}


def parameters(model):
    """Return the ids of all parameter objects, by all their names."""
    return {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}


class Vocoder(torch.nn.Module):
    """A fast stand-in for coqui's slow vocoder, which no pack changes: it returns latents as samples."""

    def forward(self, latents, g):
        return latents.flatten(1).repeat_interleave(16, 1)


def load_quickly(folder):
    with BlankWeights():
        model = load(folder)
    model.hifigan_decoder = Vocoder()
    return model


@pytest.fixture(scope="module")
def loaded_quickly(packed):
    xtts_extend.enable()
    return load_quickly(packed)


@pytest.fixture
def model(loaded_quickly):
    """A copy of the folder's `Xtts`, for one test."""
    return copy.deepcopy(loaded_quickly)


@pytest.fixture(scope="module")
def alone(loaded_quickly):
    """The waveform of each language, spoken by a model that speaks nothing else."""
    spoken = {}
    for language, text in TEXT.items():
        spoken[language] = speak(copy.deepcopy(loaded_quickly), text, language)
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(TEXT)
    return spoken


@pytest.fixture(scope="module")
def merged(all_languages, packed, tmp_path_factory):
    """A function that loads the base with a pack's weights merged in, except those that start with `keep`."""

    def make(language, keep=()):
        pack = Pack.open(packed / "packs" / f"{language}.safetensors")
        base = base_weights(all_languages)
        folder = shutil.copytree(all_languages, tmp_path_factory.mktemp("merged") / language)
        vocabulary = pack.info.vocabulary.joined(load_vocabulary(all_languages / "vocab.json"))
        (folder / "vocab.json").write_text(vocabulary.content, encoding="utf-8")
        weights = {name: base[name] if name.startswith(keep) else tensor for name, tensor in pack.weights(base).items()}
        torch.save({"model": weights}, folder / "model.pth")
        return load_quickly(folder)

    return make


def test_languages_in_any_order(model, alone):
    before = parameters(model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for language in ("en", "am", "am", "es", "ti", "el", "en", "ti", "am", "es", "el"):
        assert np.array_equal(speak(model, TEXT[language], language), alone[language]), language
    assert parameters(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("language", TEXTS)
def test_a_pack_speaks_like_a_model_with_its_weights(language, merged, alone):
    assert np.array_equal(speak(merged(language), TEXT[language], language), alone[language])
    other = merged(language, keep=("gpt.gpt.",))
    assert not np.array_equal(speak(other, TEXT[language], language), alone[language])


def test_the_model_lists_the_languages_of_its_packs(model, packed, all_languages):
    base = load_vocabulary(all_languages / "vocab.json").languages
    assert model.config.languages == [*base, "am", "el", "ti"]
    ids = model.language_manager.name_to_id
    assert [ids[language] for language in model.config.languages] == list(range(20))
    with pytest.raises(LanguageError, match=r"no tag \[sw\].* tags for: .*, am, el, ti\."):
        speak(model, "a", "sw", "synthesize")


def test_loading_another_folder_detaches_packs(model, packed, all_languages):
    config = model.config
    speak(model, TEXT["am"], "am")
    with BlankWeights():
        model.load_checkpoint(config, checkpoint_dir=all_languages, eval=True)
    assert not hasattr(model, "packs")
    assert config.languages == load_vocabulary(all_languages / "vocab.json").languages
    assert model.language_manager.name_to_id.keys() == set(config.languages)
    with pytest.raises(LanguageError, match="no tag"):
        speak(model, TEXT["am"], "am")
    with BlankWeights():
        model.load_checkpoint(config, checkpoint_path=packed / "model.pth", eval=True)
    assert list(model.packs.packs) == ["am", "el", "ti"]


def test_other_files_than_model_pth_have_no_packs(model, packed, tmp_path, caplog):
    for file in packed.rglob("*.*"):
        (tmp_path / file.relative_to(packed)).parent.mkdir(exist_ok=True)
        (tmp_path / file.relative_to(packed)).symlink_to(file)
    (tmp_path / "model.pth").rename(tmp_path / "mine.pth")
    with BlankWeights():
        model.load_checkpoint(model.config, checkpoint_path=tmp_path / "mine.pth", eval=True)
    assert not hasattr(model, "packs")
    assert f"The packs in {tmp_path / 'packs'} are not used" in caplog.text


@pytest.mark.parametrize("by_file", [True, False])
def test_the_coqui_api(by_file, packed, alone):
    path = packed / "model.pth" if by_file else packed
    with BlankWeights():
        tts = TTS(model_path=str(path), config_path=str(packed / "config.json"), progress_bar=False)
    tts.synthesizer.tts_model.hifigan_decoder = Vocoder()
    assert {"am", "ti", "el", "en"} <= set(tts.languages)
    torch.manual_seed(5)
    spoken = np.array(tts.tts(TEXT["am"], speaker="untrained", language="am"))
    assert np.array_equal(spoken[: len(alone["am"])], alone["am"])
    with pytest.raises(LanguageError, match=r"no tag \[sw\]"):
        tts.tts("a", speaker="untrained", language="sw", split_sentences=False)


def test_a_region_is_ignored(model, alone):
    assert np.array_equal(speak(model, TEXT["am"], "am-ET"), alone["am"])


def test_eval_again(model, alone):
    speak(model, TEXT["am"], "am")
    model.eval()
    model.train()
    model.eval()
    for language in TEXT:
        assert np.array_equal(speak(model, TEXT[language], language), alone[language])


@pytest.mark.parametrize("first", [True, False])
def test_the_first_call_in_inference_mode(first, model, alone):
    with torch.inference_mode(first):
        assert np.array_equal(speak(model, TEXT["am"], "am"), alone["am"])
    with torch.inference_mode(not first):
        assert np.array_equal(speak(model, TEXT["am"], "am"), alone["am"])
    with routed(model, "am"):
        model.gpt.mel_head(model.gpt.mel_embedding(torch.tensor([1]))).sum().backward()


def logits(model, language):
    """Return the logits of the first code after a text and of all positions before it."""
    ids = torch.tensor([model.tokenizer.encode(TEXT[language], language)])
    return model.gpt.gpt_inference(model.gpt.compute_embeddings(voice(model)[0], ids)).logits


def routed_logits(model, language):
    with routed(model, language), torch.no_grad():
        return logits(model, language)


def test_autocast(model):
    def half():
        return torch.autocast("cpu", dtype=torch.bfloat16)

    expected = {}
    for language in TEXT:
        with half():
            expected[language] = routed_logits(model, language)
        assert not torch.equal(expected[language], routed_logits(model, language))
    with half():
        for language in ("en", "am", "es", "ti", "el", "am", "en", "ti", "es"):
            torch.testing.assert_close(routed_logits(model, language), expected[language], **EQUAL)


@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_follow_the_model(dtype, read_before, model, all_languages):
    pack = model.packs.packs["am"]
    expected = pack.tensors(base_weights(all_languages))
    for now in (dtype, torch.float64):
        if read_before:
            with routed(model, "am"):
                pass
        model.to(now)
        before = parameters(model)
        for language in ("en", "am", "en", "am"):
            with routed(model, language):
                assert {parameter.dtype for parameter in model.gpt.parameters()} == {now}
                for name, tensor in expected.items():
                    equal = torch.equal(model.get_parameter(name), tensor.to(dtype).to(now))
                    assert equal == (language == "am"), name
        assert parameters(model) == before
    assert routed_logits(model, "am").dtype == torch.float64


def test_packs_in_memory(model, alone):
    packs = model.packs
    assert packs.resident == RESIDENT == 2

    def read():
        return list(packs._read)

    for language, expected in [
        ("en", []), ("am", ["am"]), ("ti", ["am", "ti"]), ("am", ["ti", "am"]), ("el", ["am", "el"]),
        ("ti", ["el", "ti"]),
    ]:  # fmt: skip
        assert np.array_equal(speak(model, TEXT[language], language), alone[language])
        assert read() == expected
    packs.resident = 1
    speak(model, TEXT["am"], "am")
    assert read() == ["am"]
    # The tensors are copies, and those mapped from the file were freed.
    assert "stored" not in vars(packs.packs["am"])


def test_a_file_that_was_damaged_after_loading(packed, tmp_path, alone):
    folder = shutil.copytree(packed, tmp_path / "model")
    model = load_quickly(folder)
    before = parameters(model)
    file = folder / "packs" / "am.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    (folder / "packs" / "ti.safetensors").unlink()
    for language, message in (("am", "is damaged: checksum mismatch in 1 of"), ("ti", "cannot be read")):
        for way in WAYS:
            with pytest.raises(PackError, match=message):
                speak(model, TEXT[language], language, way)
        assert parameters(model) == before
    for language in ("en", "el"):
        assert np.array_equal(speak(model, TEXT[language], language), alone[language])


def test_a_damaged_folder_does_not_load(packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "model")
    (folder / "packs" / "am.safetensors").write_bytes(b"")
    with pytest.raises(PackError, match="am.safetensors"):
        load(folder)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_a_call(way, model, alone, monkeypatch):
    before = parameters(model)
    for language in ("am", "en"):
        with monkeypatch.context() as patch:
            patch.setattr(model.hifigan_decoder, "forward", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                speak(model, TEXT[language], language, way)
        assert parameters(model) == before
    for language in TEXT:
        assert np.array_equal(speak(model, TEXT[language], language), alone[language])


def test_deepspeed(model, alone):
    model.gpt.ds_engine = object()
    for way in WAYS:
        with pytest.raises(PackError, match="Load the model without use_deepspeed"):
            speak(model, TEXT["am"], "am", way)
    assert np.array_equal(speak(model, TEXT["en"], "en"), alone["en"])


def test_modules_that_were_replaced(model, alone):
    before = parameters(model)
    original, model.gpt.mel_head = model.gpt.mel_head, torch.nn.Identity()
    with pytest.raises(PackError, match="no parameter gpt.mel_head"):
        speak(model, TEXT["am"], "am")
    model.gpt.mel_head = original
    assert parameters(model) == before
    for language in ("en", "am"):
        assert np.array_equal(speak(model, TEXT[language], language), alone[language])


# --- streams


def stream(model, language):
    torch.manual_seed(5)
    return model.inference_stream(TEXT[language], language, *voice(model), stream_chunk_size=2)


def exhaust(chunks):
    for _ in chunks:
        pass


def fail(chunks):
    with pytest.raises(KeyError):
        chunks.throw(KeyError("a"))


ENDS = {
    "exhausted": exhaust,
    "closed": lambda chunks: chunks.close(),
    "failed": fail,
    "closed elsewhere": lambda chunks: _in_thread(chunks.close),
    "read on elsewhere": lambda chunks: _in_thread(lambda: exhaust(chunks)),
}


def _in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("language", ["am", "en"])
def test_a_stream_locks_the_model(language, ending, model, alone):
    before = parameters(model)
    chunks = stream(model, language)
    assert np.array_equal(speak(model, TEXT["ti"], "ti"), alone["ti"]), "not locked before its first chunk"
    next(chunks)
    assert (parameters(model) == before) == (language == "en")
    for other in ("am", "en", "ti"):
        with pytest.raises(PackError, match="stream of the model is open"):
            speak(model, TEXT[other], other)
        with pytest.raises(PackError, match="stream of the model is open"), routed(model, other):
            pass
    with pytest.raises(PackError, match="stream of the model is open"):
        next(stream(model, "en"))
    ENDS[ending](chunks)
    assert parameters(model) == before
    for other in TEXT:
        assert np.array_equal(speak(model, TEXT[other], other), alone[other])


def test_a_stream_that_is_garbage_collected(model, alone):
    before = parameters(model)
    chunks = stream(model, "am")
    next(chunks)
    del chunks
    gc.collect()
    assert parameters(model) == before
    assert np.array_equal(speak(model, TEXT["en"], "en"), alone["en"])


def test_another_thread_waits_for_a_stream(model, alone):
    chunks = stream(model, "am")
    next(chunks)
    spoken = []
    thread = threading.Thread(target=lambda: spoken.append(speak(model, TEXT["en"], "en")))
    thread.start()
    time.sleep(0.3)
    assert spoken == []
    exhaust(chunks)
    thread.join()
    assert np.array_equal(spoken[0], alone["en"])


def test_threads_in_several_languages(model):
    """Decoding is greedy because threads share the random generator."""
    expected = {language: speak(model, text, language, do_sample=False) for language, text in TEXT.items()}
    assert len({waveform.tobytes() for waveform in expected.values()}) == len(TEXT)
    wrong, done = [], []

    def talk(language):
        for _ in range(3):
            if not np.array_equal(speak(model, TEXT[language], language, do_sample=False), expected[language]):
                wrong.append(language)
            done.append(language)

    threads = [threading.Thread(target=talk, args=(language,)) for language in ("am", "en", "ti")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(done)) == ([], 9)


# --- routed


def test_calls_inside_a_block_use_its_tensors(model, alone):
    before = parameters(model)
    with routed(model, "am"):
        assert np.array_equal(speak(model, TEXT["am"], "am"), alone["am"])
        assert not np.array_equal(speak(model, TEXT["en"], "en"), alone["en"])
        with routed(model, "am"):
            assert np.array_equal(speak(model, TEXT["am"], "am", "synthesize"), alone["am"])
        with pytest.raises(PackError, match="is using the tensors of the pack for am, but 'ti' needs different ones"):
            speak(model, TEXT["ti"], "ti")
        with pytest.raises(PackError, match="is using the tensors of the pack for am, but 'en'"), routed(model, "en"):
            pass
    with routed(model, "en"):
        assert parameters(model) == before
        assert np.array_equal(speak(model, TEXT["en"], "en"), alone["en"])
        with pytest.raises(PackError, match="is using the tensors of the base, but 'am' needs different ones"):
            speak(model, TEXT["am"], "am")
    assert parameters(model) == before
    assert np.array_equal(speak(model, TEXT["ti"], "ti"), alone["ti"])


def test_a_stream_outlives_the_block_it_was_opened_in(model, alone):
    before = parameters(model)
    with routed(model, "am"):
        chunks = stream(model, "am")
        first = next(chunks)
    rest = torch.cat([first, *chunks])
    assert torch.equal(rest, torch.cat(list(stream(model, "am"))))
    assert parameters(model) == before
    with routed(model, "am"):
        chunks = stream(model, "am")
        next(chunks)
        _in_thread(lambda: exhaust(chunks))
        assert np.array_equal(speak(model, TEXT["am"], "am"), alone["am"])
    assert parameters(model) == before


def test_a_model_without_packs_is_unchanged(model, all_languages):
    plain = load_quickly(all_languages)
    before = parameters(plain)
    with routed(plain, "am"), routed(plain, "en"):
        assert parameters(plain) == before
    first, second = stream(plain, "en"), stream(plain, "es")
    assert len([next(first), next(second)]) == 2, "two streams at a time, as in stock"
    assert not hasattr(plain, "packs")


def test_attach(model, all_languages, packed, alone):
    vocabulary, all_packs = load_vocabulary(all_languages / "vocab.json"), model.packs.packs
    attach(model, {}, vocabulary)
    assert not hasattr(model, "packs")
    assert model.config.languages == vocabulary.languages
    assert np.array_equal(speak(model, TEXT["en"], "en"), alone["en"])
    attach(model, {"am": Pack.open(packed / "packs" / "am.safetensors")}, vocabulary)
    assert np.array_equal(speak(model, TEXT["am"], "am"), alone["am"])
    with pytest.raises(LanguageError):
        speak(model, TEXT["el"], "el")
    attach(model, all_packs, vocabulary)
    assert np.array_equal(speak(model, TEXT["el"], "el"), alone["el"])


def test_a_copy_of_a_model(model, alone):
    model.packs.resident = 1
    copied = copy.deepcopy(model)
    assert copied.packs is not model.packs
    assert copied.packs.resident == 1
    with routed(model, "am"):
        assert np.array_equal(speak(copied, TEXT["en"], "en"), alone["en"]), "the copy is not locked with the original"
    assert np.array_equal(speak(copied, TEXT["am"], "am"), alone["am"])


def test_enabling_twice_is_enabling_once():
    patched = Xtts.inference, Xtts.inference_stream, Xtts.load_checkpoint
    enable()
    assert (Xtts.inference, Xtts.inference_stream, Xtts.load_checkpoint) == patched


@pytest.mark.parametrize("number", [0, 1])
def test_packs_with_the_same_tokens_are_independent(number, model, all_languages, tmp_path):
    """ሰ, ላ and ም are in both with different ids, and only one of them has a merge."""
    merges = [("ሰ", "ላ")]
    files = [
        make_pack(all_languages, "am", tmp_path / "am.safetensors", seed=1, merges=merges),
        make_pack(all_languages, "ti", tmp_path / "ti.safetensors", seed=2),
    ]
    vocabulary = load_vocabulary(all_languages / "vocab.json")
    both = {pack.info.language: pack for pack in files}
    pack = files[number]
    language = pack.info.language
    spoken = []
    for packs in ({language: pack}, both):
        attach(model, packs, vocabulary)
        entries = pack.info.vocabulary.entries
        pieces = ["ሰላ", "ም"] if language == "am" else ["ሰ", "ላ", "ም"]
        assert model.tokenizer.encode("ሰላም", language) == [entries[token] for token in [f"[{language}]", *pieces]]
        with routed(model, language):
            rows = model.gpt.text_embedding.weight[list(entries.values())]
        torch.testing.assert_close(rows.detach(), pack.stored["gpt.text_embedding.weight"], **EQUAL)
        spoken.append(speak(model, TEXT[language], language))
    assert np.array_equal(*spoken)
    assert entries.keys() & files[1 - number].info.vocabulary.entries.keys() >= {"ሰ", "ላ", "ም"}
