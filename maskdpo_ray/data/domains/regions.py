"""Continents and regions of the world by ISO 3166 code: UN M49 plus the regions people speak of.

Source: United Nations Statistics Division, "Standard country or area codes for statistical use" (M49).
"""

from __future__ import annotations

from functools import cache

CONTINENTS: dict[str, tuple[str, ...]] = {
    "Africa": ("African",),
    "Asia": ("Asian",),
    "Europe": ("European",),
    "North America": ("North American",),
    "South America": ("South American",),
    "Oceania": ("Oceanian", "Australasia", "Australia and Oceania", "South Pacific"),
    "Antarctica": (),
}
# M49 sub-region -> (continent, member states).
SUBREGIONS: dict[str, tuple[str, str]] = {
    "Northern Africa": ("Africa", "DZ EG LY MA SD TN EH"),
    "Eastern Africa": ("Africa", "BI KM DJ ER ET KE MG MW MU MZ RW SC SO SS UG TZ ZM ZW"),
    "Middle Africa": ("Africa", "AO CM CF TD CG CD GQ GA ST"),
    "Southern Africa": ("Africa", "BW SZ LS NA ZA"),
    "Western Africa": ("Africa", "BJ BF CV CI GM GH GN GW LR ML MR NE NG SN SL TG"),
    "Caribbean": ("North America", "AG BS BB CU DM DO GD HT JM KN LC VC TT"),
    "Central America": ("North America", "BZ CR SV GT HN MX NI PA"),
    "Northern America": ("North America", "CA US"),
    "South America": ("South America", "AR BO BR CL CO EC GY PY PE SR UY VE"),
    "Central Asia": ("Asia", "KZ KG TJ TM UZ"),
    "Eastern Asia": ("Asia", "CN JP MN KP KR TW"),
    "South-eastern Asia": ("Asia", "BN KH ID LA MY MM PH SG TH TL VN"),
    "Southern Asia": ("Asia", "AF BD BT IN IR MV NP PK LK"),
    "Western Asia": ("Asia", "AM AZ BH CY GE IQ IL JO KW LB OM QA SA SY TR AE YE"),
    "Eastern Europe": ("Europe", "BY BG CZ HU MD PL RO RU SK UA"),
    "Northern Europe": ("Europe", "DK EE FI IS IE LV LT NO SE GB"),
    "Southern Europe": ("Europe", "AL AD BA HR GR IT XK MT ME MK PT SM RS SI ES VA"),
    "Western Europe": ("Europe", "AT BE FR DE LI LU MC NL CH"),
    "Australia and New Zealand": ("Oceania", "AU NZ"),
    "Melanesia": ("Oceania", "FJ PG SB VU"),
    "Micronesia": ("Oceania", "FM KI MH NR PW"),
    "Polynesia": ("Oceania", "WS TO TV"),
}
# States on two continents, or counted to either by common usage.
ALSO_IN: dict[str, str] = {"Asia": "RU EG CY TL", "Europe": "TR KZ GE AZ AM CY", "Oceania": "ID TL"}
# Regions that M49 does not define, and members that common usage adds to its own; generously, so that
# only what is surely outside is false.
REGIONS: dict[str, str] = {
    "Middle East": "BH CY EG IR IQ IL JO KW LB OM QA SA SY TR AE YE",
    "Near East": "BH CY EG IR IQ IL JO KW LB OM QA SA SY TR AE YE",
    "Arabian Peninsula": "BH IQ JO KW OM QA SA AE YE",
    "Levant": "CY IL JO LB SY TR",
    "Caucasus": "AM AZ GE RU",
    "Balkans": "AL BA BG HR GR XK ME MK RO RS SI TR",
    "Baltic": "EE LV LT",
    "Scandinavia": "DK NO SE FI IS",
    "Nordic countries": "DK NO SE FI IS",
    "Central Europe": "AT CZ DE HU LI PL SK SI CH HR LT LU RO RS",
    "Eastern Europe": "AL BA HR RS ME MK XK EE LV LT SI GE AM AZ",
    "Western Europe": "AD DK ES GB IE IT MC PT SM VA",
    "Southern Europe": "BG CY FR MC RO TR",
    "Western Asia": "EG IR",
    "Southeastern Europe": "AL BA BG HR GR XK ME MK MD RO RS SI TR CY",
    "Southwestern Europe": "AD ES PT FR",
    "Northwestern Europe": "BE DK FR DE IE LU NL NO GB",
    "Iberian Peninsula": "AD ES PT",
    "Balkan Peninsula": "AL BA BG HR GR XK ME MK RO RS SI TR",
    "Horn of Africa": "DJ ER ET SO SD KE",
    "Sahel": "BF TD ER ML MR NE NG SN SD",
    "Maghreb": "DZ LY MR MA TN",
    "Sub-Saharan Africa": "AO BJ BW BF BI CV CM CF TD KM CG CD CI DJ GQ ER SZ ET GA GM GH GN GW KE LS LR MG "
    "MW ML MR MU MZ NA NE NG RW ST SN SC SL SO ZA SS SD TZ TG UG ZM ZW",
    "Central Africa": "AO BI CM CF TD CG CD GQ GA RW ST SS ZM",
    "Southeastern Africa": "MZ MW TZ ZM ZW SZ LS ZA",
    "Southern Africa": "AO BW SZ LS MG MW MU MZ NA ZA ZM ZW",
    "Eastern Africa": "SD SS",
    "Indian subcontinent": "BD BT IN MV NP PK LK",
    "Southern Asia": "MM",
    "Central Asia": "AF MN",
    "Southwest Asia": "AF AM AZ BH CY GE IR IQ IL JO KW LB OM QA SA SY TR AE YE",
    "Far East": "CN JP MN KP KR TW RU VN SG MY TH ID PH KH LA MM BN TL",
    "Latin America": "AR BO BR CL CO EC GY PY PE SR UY VE BZ CR SV GT HN MX NI PA CU DO HT",
    "Caribbean": "BZ GY SR",
    "Americas": "CA US AR BO BR CL CO EC GY PY PE SR UY VE BZ CR SV GT HN MX NI PA CU DO HT AG BS BB DM GD "
    "JM KN LC VC TT",
    "West Indies": "AG BS BB CU DM DO GD HT JM KN LC VC TT",
    "Antilles": "AG BB CU DM DO GD HT JM KN LC VC TT",
    "Australian continent": "AU PG",
    "Australia": "AU",
    "Mediterranean": "AL BA HR CY DZ EG ES FR GR IL IT LB LY MA MC ME MT SI SY TN TR PT",
    "Pacific Islands": "FJ PG SB VU FM KI MH NR PW WS TO TV",
}
EURASIA = "Eurasia"
_COMPASS = {
    "Northern": "North",
    "Eastern": "East",
    "Southern": "South",
    "Western": "West",
    "Middle": "Central",
    "South-eastern": "Southeast",
    "Southeastern": "Southeast",
    "Southwestern": "Southwest",
    "Northwestern": "Northwest",
}
_ADJECTIVES = {
    "Africa": "African",
    "Asia": "Asian",
    "Europe": "European",
    "America": "American",
    "East": "Eastern",
    "Balkans": "Balkan",
    "Scandinavia": "Scandinavian",
    "Eurasia": "Eurasian",
}


@cache
def aliases(region: str) -> tuple[str, ...]:
    """Other spellings of a region's name: "Eastern Africa" -> ("East Africa", "East African", ...)."""
    forms = {region}
    first, _, rest = region.partition(" ")
    if rest.rpartition(" ")[2] in {"Africa", "Asia", "Europe", "America"} and first in _COMPASS:
        forms |= {f"{_COMPASS[first]} {rest}", f"{_COMPASS[first]}ern {rest}".replace("Centralern", "Central")}
    if region in CONTINENTS:
        forms |= {*CONTINENTS[region], f"{region} continent", f"{_adjective(region)} continent"}
    forms |= {_adjective(name) for name in forms}
    return tuple(sorted(forms - {region}))


def _adjective(name: str) -> str:
    head, _, last = name.rpartition(" ")
    return f"{head} {_ADJECTIVES.get(last, last)}".strip()


def of(code: str) -> tuple[str, ...]:
    """Names of the continents, sub-regions and regions that the state with this ISO code lies in.

    Raises KeyError for a code that M49 does not place.
    """
    main = [(sub, continent) for sub, (continent, members) in SUBREGIONS.items() if code in members.split()]
    if not main:
        raise KeyError(code)
    found = [continent for _, continent in main] + [sub for sub, _ in main]
    found += [continent for continent, members in ALSO_IN.items() if code in members.split()]
    found += [name for name, members in REGIONS.items() if code in members.split()]
    if {"Asia", "Europe"} & set(found):
        found.append(EURASIA)
    return tuple(dict.fromkeys(found))


def names() -> tuple[str, ...]:
    """Every continent, sub-region and region."""
    return tuple(dict.fromkeys((*CONTINENTS, *SUBREGIONS, *REGIONS, EURASIA)))
