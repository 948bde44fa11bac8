from collapse.callbacks.evaluation import GenerationEvaluation

__all__ = ["GenerationEvaluation"]
