"""Names that the Factbook and CLDR do not give: spellings, former names, adjectives; joined by "|"."""

from __future__ import annotations

FACTBOOK: dict[str, str] = {
    "ac": "AG|Antigua and Barbuda",
    "bf": "BS|The Bahamas|Bahamas",
    "bk": "BA|Bosnia and Herzegovina|Bosnia|Bosnia-Herzegovina",
    "bm": "MM|Burma|Myanmar|Republic of the Union of Myanmar",
    "cf": "CG|Republic of the Congo|Congo-Brazzaville|Republic of Congo|Congo|Congo Republic",
    "cg": "CD|Democratic Republic of the Congo|DRC|DR Congo|Democratic Republic of Congo|Congo",
    "cv": "CV|Cape Verde|Cabo Verde",
    "dr": "DO|Dominican Republic",
    "gz": "PS|Gaza Strip|Gaza|Palestine|Palestinian territories|State of Palestine",
    "we": "PS|West Bank|Palestine|Palestinian territories|State of Palestine",
    "fm": "FM|Micronesia|Federated States of Micronesia",
    "ga": "GM|The Gambia|Gambia",
    "iv": "CI|Ivory Coast|Cote d'Ivoire",
    "sc": "KN|Saint Kitts and Nevis",
    "st": "LC|Saint Lucia",
    "td": "TT|Trinidad and Tobago|Trinidad",
    "tp": "ST|Sao Tome and Principe|Sao Tome",
    "tu": "TR|Turkey|Turkiye",
    "vc": "VC|Saint Vincent and the Grenadines|Saint Vincent",
    "vt": "VA|Holy See|Vatican City|Vatican",
}
"""Factbook code -> ISO code, name to use, further names; only where CLDR names the country differently."""
NAMES: dict[str, str] = {
    "CZ": "Czech Republic",
    "SZ": "Swaziland",
    "MK": "Macedonia",
    "TL": "East Timor",
    "GB": "UK|Great Britain|Britain|U.K.",
    "US": "US|USA|U.S.|United States of America|America",
    "AE": "UAE|Emirates",
    "CF": "CAR",
    "KR": "Korea",
    "KP": "Korea",
    "NL": "Holland",
    "RU": "Russian Federation",
    "CN": "PRC",
    "PG": "PNG",
    "MD": "Moldavia",
    "KG": "Kirghizia",
}
"""ISO code -> further names of a country; two countries may share one ("Congo")."""
CAPITALS: dict[str, str] = {
    "ET": "Addis Abeba",
    "LU": "Luxembourg City",
    "MC": "Monaco-Ville",
    "TM": "Asgabat",
    "MM": "Naypyidaw|Naypyitaw|Nay Pyi Daw",
    "KZ": "Nur-Sultan",
    "MN": "Ulan Bator",
    "YE": "Sana'a",
    "LK": "Sri Jayawardenepura Kotte|Kotte",
    "MV": "Male",
    "IN": "Delhi",
    "CH": "Berne",
    "MH": "Delap",
    "KI": "South Tarawa",
    "GT": "Guatemala",
    "MY": "Putrajaya",
    "MD": "Kishinev",
    "PW": "Melekeok",
    "US": "Washington",
    "AG": "St. John's",
}
"""ISO code -> further spellings and names of its capital."""
FIRST_CAPITALS: dict[str, str] = {"MM": "Nay Pyi Taw", "LK": "Sri Jayewardenepura Kotte"}
"""ISO code -> the capital to show first, where the Factbook names another one before it."""
NOT_CURRENCIES: dict[str, str] = {"HT": "USD"}
"""ISO code -> legal tender in CLDR that is no currency of the country, nor officially adopted."""
ADJECTIVES: dict[str, str] = {
    "BW": "Botswanan",
    "CI": "Ivorian",
    "SZ": "Swazi",
    "KZ": "Kazakh",
    "KG": "Kyrgyz",
    "NP": "Nepalese",
    "TJ": "Tajik",
    "TM": "Turkmen",
    "UZ": "Uzbek",
    "KM": "Comorian",
    "US": "US|U.S.",
    "CD": "Congolese",
    "PH": "Filipino",
    "AR": "Argentinian|Argentinean",
    "BD": "Bangladesh",
    "BY": "Belarussian",
    "KP": "North Korean",
    "KR": "South Korean",
    "LS": "Lesotho",
    "MG": "Madagascan",
    "CV": "Cape Verdean",
    "TW": "Taiwanese",
    "XK": "Kosovar",
    "AF": "Afghani",
    "LU": "Luxembourgish",
    "SG": "Singaporean",
}
"""ISO code -> further adjectives of a country."""
LANGUAGES: dict[str, str] = {
    "Swahili": "Kiswahili",
    "Persian": "Farsi|Persian Farsi",
    "Dari": "Afghan Persian|Dari Persian",
    "Bangla": "Bengali",
    "Mandarin": "Chinese|Standard Chinese|Mandarin Chinese|Putonghua",
    "Lao": "Laotian",
    "Malay": "Bahasa Melayu|Bahasa Malaysia|Malaysian",
    "Indonesian": "Bahasa Indonesia|Bahasa",
    "Spanish": "Castilian|Castilian Spanish",
    "Khmer": "Cambodian",
    "Sinhala": "Sinhalese",
    "Azerbaijani": "Azeri",
    "Slovenian": "Slovene",
    "Norwegian": "Bokmal Norwegian|Nynorsk Norwegian|Norwegian Bokmål|Norwegian Nynorsk|Bokmal|Nynorsk",
    "Haitian Creole": "Creole|Haitian",
    "Kinyarwanda": "Rwandan language",
    "Rundi": "Kirundi",
    "Dhivehi": "Divehi",
    "Tswana": "Setswana",
    "Southern Sotho": "Sesotho|Sotho",
    "Northern Sotho": "Sepedi|Pedi",
    "Swati": "siSwati|Swazi",
    "Tigrinya": "Tigrigna",
    "Chewa": "Chichewa|Nyanja|Chinyanja",
    "Filipino": "Tagalog|Pilipino",
    "Berber": "Tamazight|Amazigh|Standard Moroccan Tamazight",
    "Romanian": "Moldovan",
    "Uzbek": "Uzbeki",
    "Turkmen": "Turkmani",
    "Pashto": "Pashtu",
    "Punjabi": "Panjabi",
    "Irish": "Gaelic|Gaeilge",
    "Greek": "Modern Greek",
    "Tetum": "Tetun",
    "Kyrgyz": "Kirghiz",
    "Kazakh": "Qazaq",
    "Burmese": "Myanmar language",
    "Guarani": "Guaraní",
    "Luxembourgish": "Letzeburgesch",
    "Hebrew": "Modern Hebrew",
    "Romansh": "Romansch",
    "Zulu": "isiZulu",
    "Xhosa": "isiXhosa",
    "Kurdish": "Kurmanji|Sorani",
    "Comorian": "Shikomoro|Shikomor",
    "Sango": "Sangho",
    "Seychellois Creole": "Seselwa",
    "Maori": "Māori|Te Reo",
}
"""Main name of a language -> its other names."""
CURRENCIES: dict[str, str] = {
    "CNY": "renminbi|RMB|yuan renminbi",
    "GBP": "pound sterling|British pound sterling|sterling",
    "XOF": "CFA franc|CFA|West African franc",
    "XAF": "CFA franc|CFA|Central African franc",
    "USD": "United States dollar|American dollar|U.S. dollar",
    "SZL": "emalangeni",
    "LSL": "maloti",
    "ILS": "new Israeli shekel|shekel|sheqel",
    "BGN": "leva",
    "MDL": "lei",
    "RON": "lei",
    "BAM": "convertible mark|konvertibilna marka",
    "CZK": "koruna|crown",
    "DKK": "crown",
    "SEK": "crown|kronor",
    "NOK": "crown|kroner",
    "ISK": "crown|kronur",
    "PEN": "nuevo sol",
    "UZS": "soum|som|sum",
    "MNT": "togrog|tögrög",
    "INR": "rupee",
    "XCD": "Eastern Caribbean dollar",
    "PLN": "zloty",
    "BYN": "ruble|rouble",
    "RUB": "rouble",
    "NGN": "naira",
    "SLE": "leone",
    "MRU": "ouguiya",
    "KGS": "som",
    "EUR": "€",
}
"""ISO 4217 code -> further names of a currency, besides its unit and its code."""
OTHER_NAMES: str = (
    "African Union|European Union|African Development Bank|Asian Development Bank|South American Games|"
    "Gulf of Guinea|South China Sea|Lake Chad|Niger River|Congo River|Jordan River|Senegal River|"
    "Niger Delta|Congo Basin|Organization of American States|Bank of Central African States|"
    "Indian Ocean|Gulf of Mexico|Gulf of Oman|Caribbean Sea|Central African CFA franc|"
    "West African CFA franc|Council of Europe|Central American Integration System|"
    "East African Community|Pacific Ocean|South Pacific Ocean|North Pacific Ocean|Gambia River|"
    "Paraguay River|Uruguay River|Mozambique Channel|East China Sea|Sea of Japan|Andaman Sea|"
    "Greenland Sea|Baltic Sea|Economic Community of West African States|Suriname River|"
    "Great Rift Valley|British Empire|Soviet Union|Roman Empire|Ottoman Empire"
)
"""Names that contain a country or region and mean something else."""


def split(joined: str) -> tuple[str, ...]:
    """The single names of an entry; none of an empty one."""
    return tuple(name for name in joined.split("|") if name)
