"""Short sentences for the demo's speech, randomly combined from our own word lists and patterns.

The mini base model is trained on English and Spanish, and the demo adds Amharic. Benchmarks use Swahili and Italian,
which are new languages in a known script, and Tigrinya, which is related to Amharic. A sentence has one or two clauses
and five to eighteen words, which take two to eight seconds to speak.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from xtts_extend.errors import DataError, LanguageError

#: Languages that the mini base model is trained on.
BASE_LANGUAGES = ("en", "es")
#: Language that the demo adds.
NEW_LANGUAGE = "am"


@dataclass(frozen=True)
class Grammar:
    """Sentence patterns with named slots, and the phrases that can fill each slot."""

    patterns: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]


ENGLISH = Grammar(
    patterns=(
        "{time} {subject} {action} {place}.",
        "{subject} {action} {place}, {tail}.",
        "{time} {subject} {action}, {tail}.",
        "Did you know that {subject} {action} {time}?",
        "{subject} {action}.",
    ),
    slots={
        "subject": (
            *("the old farmer", "my younger sister", "a quiet doctor", "our neighbour", "the yellow dog", "her uncle"),
            *("the village teacher", "a tired sailor", "the baker's son", "my grandmother", "the new student"),
            *("a woman from the valley", "the bus driver", "his cousin George", "the judge", "a very small child"),
        ),
        "action": (
            *("found a silver key", "bought three loaves of bread", "wrote a long letter", "repaired the broken chair"),
            *("sold five white sheep", "painted the wooden door blue", "listened to the radio", "cooked fish and rice"),
            *("counted the stars", "drank a cup of strong coffee", "told us a strange story", "planted apple trees"),
            *("lost a pair of gloves", "watched the boats", "opened every window", "played the violin"),
            *("waited for the evening train", "carried a heavy box", "measured the field", "forgot the answer"),
        ),
        "place": (
            *("near the river", "behind the church", "at the market", "under the bridge", "in the kitchen"),
            *("on top of the hill", "beside the lake", "in front of the school", "across the street", "by the sea"),
            *("between two tall houses", "in a small village", "at the edge of the forest", "inside the museum"),
        ),
        "time": (
            *("yesterday", "this morning", "after the storm", "last winter", "on Thursday", "before breakfast"),
            *("late at night", "during the summer", "every year in August", "just now", "an hour ago", "at noon"),
        ),
        "tail": (
            *("because the weather was warm", "and nobody said a word", "but the others had already left"),
            *("so we all went home", "while the children were asleep", "although it was much too late"),
            *("and then it began to rain", "for the first time in years", "just as we expected"),
        ),
    },
)

SPANISH = Grammar(
    patterns=(
        "{time} {subject} {action} {place}.",
        "{subject} {action} {place}, {tail}.",
        "{time} {subject} {action}, {tail}.",
        "¿Sabes que {subject} {action} {time}?",
        "{subject} {action}.",
    ),
    slots={
        "subject": (
            *("el viejo pescador", "mi hermana menor", "la vecina de enfrente", "un médico joven"),
            *(
                "la maestra del pueblo",
                "el hijo del panadero",
                "mi abuela",
                "una mujer de la montaña",
                "su primo Andrés",
            ),
            *("el conductor del autobús", "aquel niño", "la señora García", "nuestro jefe"),
            *("el perro negro", "su primo Andrés", "el nuevo alumno"),
        ),
        "action": (
            *("encontró una llave de plata", "compró tres panes", "escribió una carta muy larga", "arregló la silla"),
            *("vendió cinco ovejas blancas", "pintó la puerta de azul", "escuchó la radio", "cocinó arroz con pollo"),
            *("contó las estrellas", "bebió una taza de café", "nos contó una historia extraña", "plantó manzanos"),
            *("perdió los guantes", "miró los barcos", "abrió todas las ventanas", "tocó la guitarra"),
            *("esperó el último tren", "llevó una caja pesada", "midió el campo", "olvidó la respuesta"),
        ),
        "place": (
            *("cerca del río", "detrás de la iglesia", "en el mercado", "debajo del puente", "en la cocina"),
            *("en lo alto de la colina", "junto al lago", "delante de la escuela", "al otro lado de la calle"),
            *("entre dos casas altas", "en un pueblo pequeño", "al borde del bosque", "dentro del museo"),
        ),
        "time": (
            *("ayer", "esta mañana", "después de la tormenta", "el invierno pasado", "el jueves", "antes del desayuno"),
            *("muy tarde", "durante el verano", "cada año en agosto", "hace una hora", "al mediodía"),
        ),
        "tail": (
            *("porque hacía mucho calor", "y nadie dijo nada", "pero los demás ya se habían ido"),
            *("así que volvimos a casa", "mientras los niños dormían", "aunque era demasiado tarde"),
            *("y entonces empezó a llover", "por primera vez en muchos años", "como todos esperaban"),
        ),
    },
)

AMHARIC = Grammar(
    patterns=(
        "{time} {subject} {place} {action}።",
        "{subject} {place} {action}፣ {tail}።",
        "{time} {subject} {action}፣ {tail}።",
        "{time} {subject} {action} ወይ?",
        "{subject} {action}።",
    ),
    slots={
        "subject": (
            *("አበበ", "ተስፋዬ", "ልጁ", "አባቴ", "ወንድሜ", "መምህሩ", "ገበሬው", "ነጋዴው", "ሐኪሙ", "ጎረቤቴ", "ጓደኛዬ", "አያቴ"),
            *("እረኛው", "ሾፌሩ", "የእኔ አጎት", "አንድ ወጣት", "ጸሐፊው", "ፖሊሱ", "ዳኛው", "ሠራተኛው"),
        ),
        "action": (
            *("ትኩስ ቡና ጠጣ", "ሦስት መጻሕፍት ገዛ", "አዲስ ጫማ ገዛ", "ረጅም ደብዳቤ ጻፈ", "ጥሩ ዘፈን ሰማ", "ትልቅ ዓሣ አየ"),
            *("እንጀራ በላ", "የቆየ ታሪክ ነገረን", "ሁለት በጎች ሸጠ", "ቀይ አበባ ተከለ", "ለእንግዶች ምግብ አዘጋጀ", "የጠፋውን ቁልፍ አገኘ"),
            *("በሩን በቀስታ ከፈተ", "ከወንድሙ ጋር ተነጋገረ", "ረጅም መንገድ ተጓዘ", "ከባድ ሳጥን ተሸከመ", "ቤቱን ነጭ ቀለም ቀባ"),
            *("ኮከቦችን ቆጠረ", "መልሱን ረሳ", "ውሃ ቀዳ"),
        ),
        "place": (
            *("በገበያ", "በቤቱ", "በትምህርት ቤት", "በአዲስ አበባ", "በወንዙ ዳር", "በከተማው መሃል", "በጎንደር", "በተራራው ላይ"),
            *("በእርሻው ላይ", "በመንገድ ላይ", "በጣና ሐይቅ አጠገብ", "ከድልድዩ ሥር", "በጫካው ውስጥ", "በሐረር"),
        ),
        "time": (
            *("ዛሬ ጠዋት", "ትናንት ማታ", "ባለፈው ሳምንት", "በክረምት", "ከሰዓት በኋላ", "በበዓል ቀን", "ሰኞ ዕለት", "ማክሰኞ ዕለት"),
            *("ረቡዕ ጠዋት", "ቅዳሜ ማታ", "ከዝናቡ በኋላ", "ከምሳ በፊት", "በየዓመቱ", "ከአንድ ሰዓት በፊት"),
        ),
        "tail": (
            *("ምክንያቱም ዝናብ ነበር", "ምክንያቱም ደክሞት ነበር", "ስለዚህ ሁሉም ተደሰተ", "ከዚያም በፍጥነት ተመለሰ"),
            *("ነገር ግን ማንም አላየውም", "ሕፃናቱም ተኝተው ነበር", "ሌሎቹ ግን ቀድመው ሄዱ", "እኛም ወደ ቤት ተመለስን"),
        ),
    },
)

SWAHILI = Grammar(
    patterns=(
        "{time} {subject} {action} {place}.",
        "{subject} {action} {place}, {tail}.",
        "{time} {subject} {action}, {tail}.",
        "Je, {subject} {action} {time}?",
        "{subject} {action}.",
    ),
    slots={
        "subject": (
            *("mkulima mzee", "dada yangu mdogo", "daktari mmoja", "jirani yetu", "mbwa wa njano", "mjomba wake"),
            *("mwalimu wa kijiji", "baharia aliyechoka", "mtoto wa mwokaji", "bibi yangu", "mwanafunzi mpya"),
            *("mama kutoka bondeni", "dereva wa basi", "binamu yake Juma", "hakimu", "kijana mrefu"),
        ),
        "action": (
            *("alipata ufunguo wa fedha", "alinunua mikate mitatu", "aliandika barua ndefu", "alitengeneza kiti"),
            *("aliuza kondoo watano weupe", "alipaka mlango rangi", "alisikiliza redio", "alipika samaki na wali"),
            *("alihesabu nyota", "alikunywa kikombe cha kahawa", "alisimulia hadithi ya ajabu", "alipanda miti"),
            *("alipoteza viatu vyake", "alitazama mashua", "alifungua madirisha yote", "alipiga ngoma"),
            *("alingoja treni ya jioni", "alibeba sanduku zito", "alipima shamba", "alisahau jibu"),
        ),
        "place": (
            *("karibu na mto", "nyuma ya msikiti", "sokoni", "chini ya daraja", "jikoni", "juu ya kilima"),
            *("kando ya ziwa", "mbele ya shule", "ng'ambo ya barabara", "pwani ya bahari", "katika kijiji kidogo"),
            *("ukingoni mwa msitu", "ndani ya jumba la makumbusho", "kati ya nyumba mbili"),
        ),
        "time": (
            *("jana", "leo asubuhi", "baada ya dhoruba", "mwaka jana", "siku ya Alhamisi", "kabla ya chakula"),
            *("usiku sana", "wakati wa kiangazi", "kila mwaka mwezi wa nane", "sasa hivi", "saa moja iliyopita"),
        ),
        "tail": (
            *(
                "kwa sababu hali ya hewa ilikuwa nzuri",
                "na hakuna mtu aliyesema neno",
                "lakini wengine walikuwa wameondoka",
            ),
            *("kwa hiyo tulienda nyumbani", "watoto walipokuwa wamelala", "ingawa ilikuwa tumechelewa"),
            *("kisha mvua ikaanza kunyesha", "kwa mara ya kwanza", "kama tulivyotarajia"),
        ),
    },
)

TIGRINYA = Grammar(
    patterns=(
        "{time} {subject} {place} {action}።",
        "{subject} {place} {action}፣ {tail}።",
        "{time} {subject} {action}፣ {tail}።",
        "{subject} {action}።",
    ),
    slots={
        "subject": (
            *("እቲ ሓረስታይ", "ንእሽቶ ሓፍተይ", "እቲ ሓኪም", "ጎረቤትና", "እታ መምህር", "ወዲ ሓወቦይ", "እቲ ተማሃራይ", "ዓባየይ"),
            *("እቲ ነጋዳይ", "እታ ቆልዓ"),
        ),
        "action": (
            *("መፍትሕ ረኺቡ", "ሰለስተ ሕምባሻ ገዚኡ", "ነዊሕ ደብዳበ ጽሒፉ", "መንበር ኣዐሪዩ", "ሓሙሽተ ኣባጊዕ ሸይጡ", "ሬድዮ ሰሚዑ"),
            *("ዓሳን ሩዝን ኣብሲሉ", "ከዋኽብቲ ቆጺሩ", "ቡን ሰትዩ", "ዛንታ ነጊሩና", "ገረብ ተኺሉ", "መስኮት ከፊቱ"),
        ),
        "place": (
            *("ኣብ ጥቓ ሩባ", "ኣብ ዕዳጋ", "ኣብ ትሕቲ ድልድል", "ኣብ ክሽነ", "ኣብ ልዕሊ ጎቦ", "ኣብ ገዛ", "ኣብ ቤት ትምህርቲ"),
            "ኣብ ማእከል ከተማ",
        ),
        "time": ("ትማሊ", "ሎሚ ንግሆ", "ድሕሪ ዝናብ", "ኣብ ክረምቲ", "ዕለተ ሓሙስ", "ቅድሚ ቁርሲ", "ለይቲ", "ሕጂ"),
        "tail": (
            *("ምኽንያቱ ኩነታት ኣየር ጽቡቕ ነበረ", "ግን ካልኦት ከይዶም ነይሮም", "ስለዚ ናብ ገዛና ተመለስና", "ህጻናት እናደቀሱ ከለዉ"),
            "ድሕሪኡ ዝናብ ጀሚሩ",
        ),
    },
)

ITALIAN = Grammar(
    patterns=(
        "{time} {subject} {action} {place}.",
        "{subject} {action} {place}, {tail}.",
        "{time} {subject} {action}, {tail}.",
        "Sapevi che {subject} {action} {time}?",
        "{subject} {action}.",
    ),
    slots={
        "subject": (
            *("il vecchio contadino", "mia sorella", "un medico tranquillo", "la nostra vicina", "il cane giallo"),
            *("la maestra del paese", "un marinaio stanco", "il figlio del fornaio", "mia nonna", "il nuovo studente"),
            *("una donna della valle", "suo cugino Giorgio", "il giudice", "un bambino molto piccolo"),
        ),
        "action": (
            *("ha trovato una chiave d'argento", "ha comprato tre pagnotte", "ha scritto una lunga lettera"),
            *("ha riparato la sedia rotta", "ha venduto cinque pecore bianche", "ha dipinto la porta di blu"),
            *("ha ascoltato la radio", "ha cucinato pesce e riso", "ha contato le stelle", "ha perso i guanti"),
            *("ha bevuto una tazza di caffè", "ci ha raccontato una storia strana", "ha piantato dei meli"),
            *("ha aperto tutte le finestre", "ha suonato il violino", "ha aspettato il treno della sera"),
        ),
        "place": (
            *(
                "vicino al fiume",
                "dietro la chiesa",
                "al mercato",
                "sotto il ponte",
                "in cucina",
                "in cima alla collina",
            ),
            *("accanto al lago", "davanti alla scuola", "in riva al mare"),
            "dall'altra parte della strada",
        ),
        "time": (
            *("ieri", "questa mattina", "dopo il temporale", "lo scorso inverno", "giovedì", "prima di colazione"),
            *("a notte fonda", "durante l'estate", "ogni anno in agosto", "un'ora fa", "a mezzogiorno"),
        ),
        "tail": (
            *("perché faceva caldo", "e nessuno ha detto una parola", "ma gli altri erano già partiti"),
            *("così siamo tornati tutti a casa", "mentre i bambini dormivano", "e poi ha cominciato a piovere"),
        ),
    },
)

GRAMMARS = {"en": ENGLISH, "es": SPANISH, "am": AMHARIC, "sw": SWAHILI, "ti": TIGRINYA, "it": ITALIAN}


def sentences(language: str, count: int, seed: int = 0) -> list[str]:
    """Return distinct random sentences in a language. The same seed gives the same sentences.

    >>> sentences("en", 1, seed=1)
    ['Did you know that my younger sister listened to the radio an hour ago?']

    Args:
        language: "en", "es", "am", "sw", "ti" or "it".
        count: Number of sentences.
        seed: Random seed.

    Raises:
        LanguageError: There are no word lists for the language.
        DataError: The word lists are too short for that many distinct sentences.
    """
    if language not in GRAMMARS:
        raise LanguageError(f"There are no word lists for {language!r}. Use one of: {', '.join(GRAMMARS)}.")
    grammar = GRAMMARS[language]
    possible = sum(
        math.prod(len(phrases) for name, phrases in grammar.slots.items() if f"{{{name}}}" in pattern)
        for pattern in grammar.patterns
    )
    # Beyond half of the possible sentences, most draws would be repeats.
    if count > possible // 2:
        raise DataError(
            f"{count:,} distinct sentences in {language!r} are too many. Request at most {possible // 2:,}."
        )
    rng = random.Random(f"{language} {seed}")
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        sentence = rng.choice(grammar.patterns).format(
            **{name: rng.choice(phrases) for name, phrases in grammar.slots.items()}
        )
        drawn[_capitalized(sentence)] = None
    return list(drawn)


def _capitalized(sentence: str) -> str:
    first = next(index for index, letter in enumerate(sentence) if letter.isalpha())
    return sentence[:first] + sentence[first].upper() + sentence[first + 1 :]
