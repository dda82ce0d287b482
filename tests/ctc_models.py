"""Tiny CTC models with random weights in folders, as transformers saves them."""

import json
from pathlib import Path

import torch
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

ROMAN = ("<blank>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz'")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_wav2vec2(folder: Path, vocabulary: tuple[str, ...] = ROMAN) -> Path:
    """Save a wav2vec2 model with frames of 20 ms."""
    config = Wav2Vec2Config(
        **SIZES, vocab_size=len(vocabulary), conv_dim=(8,) * 7, feat_extract_norm="layer", do_stable_layer_norm=True,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    return _save(folder, vocabulary, Wav2Vec2FeatureExtractor(), Wav2Vec2ForCTC, config)


def save_wav2vec2_bert(folder: Path, vocabulary: tuple[str, ...] = ROMAN, *, mels: int = 40, **options: object) -> Path:
    """Save a Wav2Vec2-BERT model with frames of 20 ms, or of 40 ms with an adapter."""
    extractor = SeamlessM4TFeatureExtractor(feature_size=mels, num_mel_bins=mels)
    config = Wav2Vec2BertConfig(
        **SIZES, vocab_size=len(vocabulary), feature_projection_input_dim=2 * mels, conv_depthwise_kernel_size=3,
        pad_token_id=0, **options,
    )  # fmt: skip
    return _save(folder, vocabulary, extractor, Wav2Vec2BertForCTC, config)


def _save(folder, vocabulary, extractor, network, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    extractor.save_pretrained(folder)
    torch.manual_seed(0)
    network(config).save_pretrained(folder)
    return folder
