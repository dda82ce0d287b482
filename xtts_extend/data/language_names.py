"""Language names as datasets spell them: in English, as in FLEURS, or in the language itself."""

from __future__ import annotations

import re
import unicodedata

# Each line has a code, other codes for the same language, a colon, and its names. XTTS's languages come first.
_LANGUAGES = """
ar ara arb: Arabic, Modern Standard Arabic, العربية, عربي
cs ces cze: Czech, čeština, česky
de deu ger: German, Deutsch
en eng: English
es spa: Spanish, Castilian, español, castellano
fr fra fre: French, français
hi hin: Hindi, हिन्दी, हिंदी
hu hun: Hungarian, magyar
it ita: Italian, italiano
ja jpn jp: Japanese, 日本語
ko kor kr: Korean, 한국어
nl nld dut: Dutch, Flemish, Nederlands
pl pol: Polish, polski
pt por: Portuguese, português
ru rus: Russian, русский
tr tur: Turkish, Türkçe
zh-cn zho chi cmn cn zh: Chinese, Mandarin, Mandarin Chinese, Simplified Chinese, 中文, 普通话, 汉语, 漢語, 国语
af afr: Afrikaans
ak aka twi tw: Akan, Twi
am amh: Amharic, አማርኛ
as asm: Assamese, অসমীয়া
ast: Asturian, Asturianu
az aze azj: Azerbaijani, Azeri, Azərbaycan, azərbaycan dili
ba bak: Bashkir, башҡортса, башҡорт теле
be bel: Belarusian, беларуская
bg bul: Bulgarian, български
bm bam: Bambara, Bamanankan
bn ben: Bengali, Bangla, বাংলা
bo bod tib: Tibetan, བོད་སྐད
br bre: Breton, brezhoneg
bs bos: Bosnian, bosanski
ca cat: Catalan, Valencian, català
ceb: Cebuano
ckb: Sorani, Sorani Kurdish, Central Kurdish, Kurdish Sorani, کوردیی ناوەندی, سۆرانی
cv chv: Chuvash, чӑвашла
cy cym wel: Welsh, Cymraeg
da dan: Danish, dansk
dv div: Dhivehi, Divehi, Maldivian, ދިވެހި
ee ewe: Ewe, Eʋegbe
el ell gre: Greek, Modern Greek, ελληνικά
eo epo: Esperanto
et est ekk: Estonian, eesti
eu eus baq: Basque, euskara
fa fas per pes: Persian, Farsi, فارسی
ff ful fuv: Fula, Fulah, Fulani, Fulfulde, Pulaar
fi fin: Finnish, suomi
fo fao: Faroese, føroyskt
fy fry: Western Frisian, Frisian, Frysk
ga gle: Irish, Irish Gaelic, Gaeilge
gd gla: Scottish Gaelic, Gàidhlig
gl glg: Galician, galego
gn grn: Guarani, avañe'ẽ
gu guj: Gujarati, ગુજરાતી
ha hau: Hausa
haw: Hawaiian, ʻŌlelo Hawaiʻi
he heb iw: Hebrew, עברית
hr hrv: Croatian, hrvatski
ht hat: Haitian Creole, Haitian, Kreyòl ayisyen
hy hye arm: Armenian, հայերեն
id ind in: Indonesian, Bahasa Indonesia
ig ibo: Igbo, Asụsụ Igbo
is isl ice: Icelandic, íslenska
jv jav jw: Javanese, Basa Jawa
ka kat geo: Georgian, ქართული
kab: Kabyle, Taqbaylit
kam: Kamba, Kikamba
kea: Kabuverdianu, Cape Verdean Creole
kk kaz: Kazakh, қазақша, қазақ тілі
km khm: Khmer, Central Khmer, ខ្មែរ, ភាសាខ្មែរ
kn kan: Kannada, ಕನ್ನಡ
ku kur kmr: Kurdish, Kurmanji, Northern Kurdish, Kurmancî, Kurdî
ky kir: Kyrgyz, Kirghiz, кыргызча
la lat: Latin, latina
lb ltz: Luxembourgish, Lëtzebuergesch
lg lug: Ganda, Luganda
ln lin: Lingala, lingála
lo lao: Lao, ລາວ
lt lit: Lithuanian, lietuvių
luo: Luo, Dholuo
lv lav lvs: Latvian, latviešu
mg mlg: Malagasy
mi mri mao: Maori, Māori, te reo Māori
mk mkd mac: Macedonian, македонски
ml mal: Malayalam, മലയാളം
mn mon khk: Mongolian, монгол
mr mar: Marathi, मराठी
ms msa may zsm: Malay, Bahasa Melayu
mt mlt: Maltese, Malti
my mya bur: Burmese, Myanmar, မြန်မာ, မြန်မာဘာသာ
ne nep npi: Nepali, नेपाली
no nor nb nob nn nno: Norwegian, Norwegian Bokmål, Bokmål, Nynorsk, norsk
nso: Northern Sotho, Sepedi, Pedi
ny nya: Nyanja, Chichewa, Chewa
oc oci: Occitan, occitan
om orm gaz: Oromo, Afaan Oromoo
or ori ory: Oriya, Odia, ଓଡ଼ିଆ
pa pan: Punjabi, Panjabi, ਪੰਜਾਬੀ
ps pus pbt: Pashto, Pushto, پښتو
qu que: Quechua, Runa Simi
ro ron rum mo: Romanian, Moldovan, Moldavian, română
rw kin: Kinyarwanda, Ikinyarwanda
sa san: Sanskrit, संस्कृतम्
sd snd: Sindhi, سنڌي
si sin: Sinhala, Sinhalese, සිංහල
sk slk slo: Slovak, slovenčina, slovensky
sl slv: Slovenian, Slovene, slovenščina
sn sna: Shona, chiShona
so som: Somali, Soomaali
sq sqi alb: Albanian, shqip
sr srp: Serbian, српски, srpski
st sot: Southern Sotho, Sesotho, Sotho
su sun: Sundanese, Basa Sunda
sv swe: Swedish, svenska
sw swa swh: Swahili, Kiswahili
ta tam: Tamil, தமிழ்
te tel: Telugu, తెలుగు
tg tgk: Tajik, тоҷикӣ
th tha: Thai, ไทย, ภาษาไทย
ti tir: Tigrinya, ትግርኛ
tk tuk: Turkmen, türkmençe
tl tgl fil: Tagalog, Filipino
tn tsn: Tswana, Setswana
ts tso: Tsonga, Xitsonga
tt tat: Tatar, татарча, татар теле
ug uig: Uyghur, Uighur, ئۇيغۇرچە
uk ukr: Ukrainian, українська
umb: Umbundu
ur urd: Urdu, اردو
uz uzb uzn: Uzbek, oʻzbekcha, o'zbek
vi vie: Vietnamese, Tiếng Việt
wo wol: Wolof
xh xho: Xhosa, isiXhosa
yi yid: Yiddish, ייִדיש
yo yor: Yoruba, Yorùbá
yue: Cantonese, Cantonese Chinese, Yue Chinese, 粵語, 粤语, 廣東話
zu zul: Zulu, isiZulu
"""


def _key(name: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", unicodedata.normalize("NFC", name).casefold().strip()))


_CODES: dict[str, str] = {}
_NAMES: dict[str, str] = {}
for _line in _LANGUAGES.strip().splitlines():
    _codes, _, _names = _line.partition(": ")
    _CODES |= dict.fromkeys(_codes.split(), _codes.split()[0])
    _NAMES |= dict.fromkeys(map(_key, _names.split(", ")), _codes.split()[0])


def code_of_name(name: str) -> str | None:
    """Return the code for a name such as "Amharic", "አማርኛ" or "Amharic (Ethiopia)", or None if the name is unknown."""
    return _NAMES.get(_key(name)) or _NAMES.get(_key(re.split(r"[(,;\[]", name)[0]))


def same_language(code: str, other: str) -> bool:
    """Return whether two codes, such as "am" and "amh", mean the same language."""
    return _CODES.get(code, code) == _CODES.get(other, other)


def codes_of(code: str) -> tuple[str, ...]:
    """Return all codes of the language that a code means, including itself, the ones with three letters first.

    >>> codes_of("am"), codes_of("swh"), codes_of("xyz")
    (('amh', 'am'), ('swa', 'swh', 'sw'), ('xyz',))
    """
    codes = (other for other in (code, *_CODES) if same_language(other, code))
    return tuple(sorted(dict.fromkeys(codes), key=lambda other: (len(other) != 3, other)))
