"""The vocabulary by which `inference` tells a task's kind: words and phrases, lower case, with what each is worth.

A verb that names the kind is worth 4, a noun that goes with it 2 or 3, a mere hint 1. English first; the verbs
also in German, French, Spanish, Italian and Portuguese.
"""

from sidecar.models.request import TaskKind

_BY_KIND: dict[TaskKind, dict[float, str]] = {
    "summarize": {
        4: """summarize summarise summarizes summarized summary summaries tldr condense gist recap
        zusammenfassung zusammenfassen résume résumé resumen riassumi resuma resumo riassunto
        summarizing zusammenzufassen""",
        3: "takeaways shorten digest fasse fass synopsis",
        2: "headline overview abstract highlights zusammen",
        1: "transcript brief article report shorter",
    },
    "classify": {
        4: """classify categorize categorise sentiment toxic toxicity classification klassifiziere clasifica
        klassifizieren classifica classifique""",
        3: "label labels spam intent emotion categories category kategorie kategorien phishing",
        2: """tag rate urgency priority flag guidelines department positive negative neutral positif négatif
        positiv negativ positivo negativo tone unsafe ordne classe insult offensive complaint
        dringlichkeit""",
        1: "score detect route ticket comment review",
    },
    "extract": {
        4: """extract extracts extracting extrahiere extrahieren extrais extrae extraia estrai extraire
        extraer""",
        3: "parse entities entity keyphrases",
        2: """pull keywords fields populate identify collect invoice mentioned clauses betrag rechnungsnummer
        verbatim fill tracking""",
        1: "csv dates names emails address addresses phone name number contract links total codes",
    },
    "code": {
        4: """python javascript typescript kotlin haskell perl sql regex dockerfile bash kubernetes terraform
        css react django fastapi nodejs git postgres postgresql pandas npm pytest refactor debug
        traceback nullpointerexception typeerror valueerror golang c# c++ php numpy sqlite mysql mongodb
        powershell github webpack vue angular swift scala cmake gradle maven segfault stacktrace""",
        3: """java rust html docker yaml code script snippet funktion fonction función funzione função
        quicksort linux compiler codebase refactoring nginx lambda programm""",
        2: """function query api endpoint algorithm loop array undefined database bug compile exception kernel
        recursion pointer mutex thread async html5 class skript repository""",
        1: "error app component deployment schema diff tests test method string node server implement",
    },
    "reason": {
        4: """prove proof beweise beweis démontrer demuestra dimostra derivative integral determinant
        probability riddle sudoku theorem""",
        3: """solve löse résous resuelve equation puzzle induction reasoning maximise maximize minimise
        minimize optimal estimate chess tradeoffs gleichung paradox""",
        2: """analyze analyse weigh justify schedule shortest taller tallest knights knaves jug irrational
        primes deduce""",
        1: "plan strategies risks together compare follow logic",
    },
}

WORDS: dict[str, tuple[TaskKind, float]] = {
    word: (kind, worth)
    for kind, lists in _BY_KIND.items()
    for worth, text in lists.items()
    for word in text.split()
}

_PHRASES: tuple[tuple[str, TaskKind, float], ...] = (
    (" key points ", "summarize", 4),
    (" main point ", "summarize", 4),
    (" main points ", "summarize", 4),
    (" main idea ", "summarize", 4),
    (" sum up ", "summarize", 4),
    (" tl dr ", "summarize", 4),
    (" text shorter ", "summarize", 3),
    (" minutes of ", "summarize", 3),
    (" meeting minutes ", "summarize", 3),
    (" resume el ", "summarize", 4),
    (" resume este ", "summarize", 4),
    (" resume the following ", "summarize", 2),
    (" yes or no ", "classify", 3),
    (" true or false ", "classify", 3),
    (" ja oder nein ", "classify", 3),
    (" oui ou non ", "classify", 3),
    (" what language is ", "classify", 4),
    (" which language is ", "classify", 4),
    (" language of this ", "classify", 3),
    (" which team ", "classify", 3),
    (" one of these ", "classify", 2),
    (" one of the following ", "classify", 2),
    (" fact or opinion ", "classify", 3),
    (" one word only ", "classify", 2),
    (" or not ", "classify", 1),
    (" as json ", "extract", 3),
    (" return json ", "extract", 3),
    (" to csv ", "extract", 3),
    (" into a table ", "extract", 3),
    (" iso format ", "extract", 1),
    (" key phrases ", "extract", 4),
    (" find all ", "extract", 2),
    (" list all ", "extract", 2),
    (" list every ", "extract", 3),
    (" from this ", "extract", 1),
    (" from the text ", "extract", 2),
    (" get the ", "extract", 1.5),
    (" in this letter ", "extract", 2),
    (" in this email ", "extract", 2),
    (" aus dem text ", "extract", 2),
    (" aus diesem text ", "extract", 2),
    (" regular expression ", "code", 4),
    (" regular expressions ", "code", 4),
    (" time complexity ", "code", 3),
    (" unit test ", "code", 3),
    (" unit tests ", "code", 3),
    (" linked list ", "code", 3),
    (" segmentation fault ", "code", 3),
    (" pull request ", "code", 2),
    (" node js ", "code", 4),
    (" step by step ", "reason", 4),
    (" reason carefully ", "reason", 4),
    (" does it follow ", "reason", 4),
    (" how many ways ", "reason", 4),
    (" trade offs ", "reason", 3),
    (" root cause ", "reason", 3),
    (" pros and cons ", "reason", 3),
    (" show that ", "reason", 4),
    (" show by ", "reason", 3),
    (" work through ", "reason", 3),
    (" how many does ", "reason", 3),
    (" how many of each ", "reason", 3),
    (" who owns ", "reason", 2),
    (" if all ", "reason", 2),
    (" how do you measure ", "reason", 2),
)

# By the longest word of each, so that a text without it pays nothing.
PHRASES: dict[str, list[tuple[str, TaskKind, float]]] = {}
for _phrase in _PHRASES:
    PHRASES.setdefault(max(_phrase[0].split(), key=len), []).append(_phrase)

# Looked for in both ends of the text, as they stand, by a character that prose seldom has.
CODE_SIGNS: dict[str, tuple[tuple[str, float], ...]] = {
    "`": (("```", 3),),
    "#": (("#include", 3),),
    "(": (
        ("Traceback (most", 4),
        ("console.log", 3),
        ("System.out", 3),
        ("def ", 2),
        ("();", 2),
        (");", 2),
        ("print(", 2),
        ("while (", 2),
        ("for (", 1),
    ),
    "{": (("{\n", 2), ("public class", 3)),
    "=": ((" => ", 2), ("return ", 1)),
    "[": (("error[E", 4),),
    "@": (("@@ -", 3),),
    "<": (("</", 1),),
    "S": (("SELECT", 2),),
    "E": (("Error:", 2),),
}
