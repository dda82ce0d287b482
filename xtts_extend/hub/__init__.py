"""Download base models and language packs from the Hugging Face Hub, and publish packs there."""
