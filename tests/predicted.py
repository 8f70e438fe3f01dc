"""What the tests of `predict_files` ask for."""

SIZE = (40, 56)


class Counting:
    """A predictor that counts the images it is asked for."""

    def __init__(self, predictor):
        self.predictor, self.calls = predictor, 0

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def __call__(self, image):
        self.calls += 1
        return self.predictor(image)


def names_in(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]
