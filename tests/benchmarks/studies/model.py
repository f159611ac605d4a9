TITLE = "Model"


def measure(found, *, small):
    return {}


def tables(result):
    return ""


def criteria(result):
    return []
