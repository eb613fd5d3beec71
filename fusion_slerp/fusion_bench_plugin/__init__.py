"""The border to FusionBench: the only part that imports fusion_bench, lightning and omegaconf."""
