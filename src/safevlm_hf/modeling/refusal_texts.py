"""Fixed texts of refusals, in five languages."""

# Language to category to text; "*" stands for every other category, and for images that cannot be read.
REFUSALS = {
    "en": {
        "*": "I can't help with this image.",
        "politics": "I can't help with this: it would interfere with politics.",
        "illegal risk": "I can't help with this: it may be against the law.",
        "insults and bullying": "I can't help with this: it would hurt someone.",
        "fairness": "I can't help with this: it treats people unfairly.",
        "privacy": "I can't help with this: it would expose private data.",
        "misleading": "I can't help with this: it would mislead people.",
    },
    "de": {
        "*": "Bei diesem Bild kann ich nicht helfen.",
        "politics": "Dabei kann ich nicht helfen: Es würde in die Politik eingreifen.",
        "illegal risk": "Dabei kann ich nicht helfen: Es könnte gegen das Gesetz sein.",
        "insults and bullying": "Dabei kann ich nicht helfen: Es würde jemanden verletzen.",
        "fairness": "Dabei kann ich nicht helfen: Es behandelt Menschen ungerecht.",
        "privacy": "Dabei kann ich nicht helfen: Es würde private Daten preisgeben.",
        "misleading": "Dabei kann ich nicht helfen: Es würde Menschen in die Irre führen.",
    },
    "es": {
        "*": "No puedo ayudar con esta imagen.",
        "politics": "No puedo ayudar con esto: interferiría en la política.",
        "illegal risk": "No puedo ayudar con esto: puede ser contrario a la ley.",
        "insults and bullying": "No puedo ayudar con esto: haría daño a alguien.",
        "fairness": "No puedo ayudar con esto: trata a las personas de forma injusta.",
        "privacy": "No puedo ayudar con esto: expondría datos privados.",
        "misleading": "No puedo ayudar con esto: engañaría a la gente.",
    },
    "fr": {
        "*": "Je ne peux pas aider avec cette image.",
        "politics": "Je ne peux pas aider : cela interférerait avec la politique.",
        "illegal risk": "Je ne peux pas aider : cela peut être contraire à la loi.",
        "insults and bullying": "Je ne peux pas aider : cela blesserait quelqu'un.",
        "fairness": "Je ne peux pas aider : cela traite des personnes injustement.",
        "privacy": "Je ne peux pas aider : cela exposerait des données privées.",
        "misleading": "Je ne peux pas aider : cela tromperait des gens.",
    },
    "zh": {
        "*": "我无法就这张图片提供帮助。",
        "politics": "我无法提供帮助：这会干预政治。",
        "illegal risk": "我无法提供帮助：这可能违反法律。",
        "insults and bullying": "我无法提供帮助：这会伤害他人。",
        "fairness": "我无法提供帮助：这对他人不公平。",
        "privacy": "我无法提供帮助：这会泄露隐私。",
        "misleading": "我无法提供帮助：这会误导他人。",
    },
}
