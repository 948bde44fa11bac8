from collapse.data.generation import GenerationCallback


class GenerationEvaluation(GenerationCallback):
    pass
