"""Support tickets, made by a seeded grammar: from title and body to department, urgency and the days it takes."""

import numpy as np

DEPARTMENTS = ["billing", "delivery", "software"]
THINGS = {
    "billing": ["invoice", "refund", "payment", "card", "price"],
    "delivery": ["parcel", "courier", "address", "box", "van"],
    "software": ["screen", "password", "update", "app", "login"],
}
TROUBLES = {
    "billing": ["was charged twice", "shows the wrong sum", "has not arrived"],
    "delivery": ["is late again", "went to the neighbour", "has not arrived"],
    "software": ["does not open", "is frozen again", "shows the wrong page"],
}
URGENT = ["please hurry", "this blocks our shop", "we need it today"]
PATIENT = ["no hurry", "whenever you can", "next week is fine"]
FILLERS = ["hello", "good morning", "dear team", "thanks", "kind regards", "as I said before"]
BASE_HOURS = {"billing": 8, "delivery": 20, "software": 4}

_PHRASES = [*URGENT, *PATIENT, *FILLERS, "and the"]
_PHRASES += [phrase for group in (THINGS, TROUBLES) for phrases in group.values() for phrase in phrases]
WORDS = sorted({word for phrase in _PHRASES for word in phrase.split()})
TITLE_LENGTH, BODY_LENGTH = 6, 24


def write_ticket(rng):
    """A title, a body, and what is to be told of them: not always in so many words."""
    department, other = (str(name) for name in rng.choice(DEPARTMENTS, 2, replace=False))
    things = [*rng.choice(THINGS[department], rng.integers(1, 4), replace=False)]
    things += [*rng.choice(THINGS[other], 2 * (rng.random() < 0.4), replace=False)]
    rng.shuffle(things)
    trouble, urgent = rng.choice(TROUBLES[department]), bool(rng.random() < 0.4)
    title = f"{things[0]} {trouble}" if rng.random() < 0.5 else rng.choice(FILLERS)
    haste = rng.choice((URGENT if urgent else PATIENT) if rng.random() < 0.8 else FILLERS)
    sentences = [f"the {' and the '.join(things)} {trouble if rng.random() < 0.7 else ''}", haste]
    body = " ".join([rng.choice(FILLERS), *rng.permutation(sentences), rng.choice(FILLERS)])
    hours = BASE_HOURS[department] * (0.5 if urgent else 1) + 3 * len(things) + rng.normal()
    return title, body, DEPARTMENTS.index(department), urgent, hours


def encode(texts, length):
    """Words as numbers from 1 on, [N, length]; 0 fills up."""
    numbers = np.zeros((len(texts), length), "int32")
    for row, text in enumerate(texts):
        words = [WORDS.index(word) + 1 for word in text.split()][:length]
        numbers[row, : len(words)] = words
    return numbers


def load_data(seed, count=2400):
    """Two padded texts, three outputs; three quarters to train, the rest for validation and test."""
    rng = np.random.default_rng(seed)
    titles, bodies, departments, urgent, hours = zip(*(write_ticket(rng) for _ in range(count)), strict=True)
    x = {"title": encode(titles, TITLE_LENGTH), "body": encode(bodies, BODY_LENGTH)}
    y = {
        "department": np.array(departments),
        "urgent": np.array(urgent, "int8"),
        "days": np.array(hours, "float32") / 24,
    }
    ends = {
        "train": (0, count * 3 // 4),
        "validation": (count * 3 // 4, count * 7 // 8),
        "test": (count * 7 // 8, count),
    }
    return {
        name: tuple({key: array[start:end] for key, array in arrays.items()} for arrays in (x, y))
        for name, (start, end) in ends.items()
    }


def build_model(dropout=0.2, units=24):
    """One embedding for both texts, an LSTM for each, and three outputs."""
    import keras
    from keras import layers

    title = keras.Input((TITLE_LENGTH,), dtype="int32", name="title")
    body = keras.Input((BODY_LENGTH,), dtype="int32", name="body")
    embed = layers.Embedding(len(WORDS) + 1, 16, mask_zero=True)
    read = layers.Concatenate()([layers.LSTM(units)(embed(title)), layers.LSTM(units)(embed(body))])
    read = layers.Dropout(dropout)(read)
    outputs = [
        layers.Dense(len(DEPARTMENTS), "softmax", name="department")(read),
        layers.Dense(1, "sigmoid", name="urgent")(read),
        layers.Dense(1, name="days")(read),
    ]
    model = keras.Model([title, body], outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=["sparse_categorical_crossentropy", "binary_crossentropy", "mse"],
        loss_weights=[1.0, 1.0, 2.0],
        metrics=[["accuracy"], ["accuracy"], ["mae"]],
    )
    return model
