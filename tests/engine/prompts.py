"""Zero-shot and in-context prompts as in the paper, for the engine tests."""

TASK = "Classify the sentiment of the movie review as positive or negative.\n\n"
TEXTS = (
    "a warm and funny film that never loses its way",
    "dull",
    "two hours of my life that nobody is going to give back",
    "the cast is wonderful , the script is not , and the music sits somewhere in between the two of them",
    "an instant classic",
    "it has a beginning , a middle and an end , and I was glad of the last of these",
)
SHOTS = (
    ("a joy from the first scene to the last", "positive"),
    ("I have seen better acting in a dentist 's waiting room", "negative"),
    ("sharp , tender and surprising", "positive"),
    ("a plot with more holes than a colander , and less use", "negative"),
)
LABELS = ("positive", "negative")
LONG_LABELS = ("positive", "very positive", "technology news", "negative")  # several tokens; two share words

ZERO_SHOT = [f"{TASK}Text: {text}\nLabel:" for text in TEXTS]
IN_CONTEXT = [
    TASK + "".join(f"Text: {text}\nLabel: {label}\n\n" for text, label in SHOTS) + f"Text: {text}\nLabel:"
    for text in TEXTS
]
