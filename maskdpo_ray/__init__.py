"""maskdpo_ray: Mask-DPO (ICLR 2025, arXiv 2503.02846) on Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"
