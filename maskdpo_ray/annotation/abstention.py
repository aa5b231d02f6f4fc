"""Detection of answers that abstain ("I don't know"), by rules for English and Chinese.

An answer abstains if it says nothing, or if one of its clauses says that the answerer lacks the knowledge to answer and
no clause claims anything about the world, not even in an exception ("other than Paris") or a second negation. The
subject decides, not a keyword: in "I do not know", "there is no information about her" and "the passages do not
mention it" it is the answerer and its sources; in "he did not know", "as an AI pioneer, Turing ..." or the title of a
song it is not. Besides it only asides, which claim nothing, may occur: apologies, questions, requests, offers, pointers
to sources, guesses why nothing is known. A clause of any other form counts as a claim, so the answer commits itself and
is judged: precision takes priority over recall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from maskdpo_ray.annotation import sentences

_LONGEST = 400  # Characters of a clause that is read, so that no text takes quadratic time.


@dataclass(frozen=True, slots=True)
class _Language:
    """The patterns of one language, matched at the start of a clause with white space collapsed to single spaces."""

    clause: re.Pattern[str]
    """Separators of the clauses of a sentence."""
    opening: re.Pattern[str]
    """Words before a clause that don't change its meaning."""
    lack: re.Pattern[str]
    """Clauses in which the answerer lacks the knowledge to answer."""
    excepts: re.Pattern[str]
    """Exceptions and comparisons, which claim what they name: "I can't name a capital other than Paris"."""
    negation: re.Pattern[str]
    """Negations, of which a second one claims, too: "I don't know anyone who doesn't know that it is Paris"."""
    single: re.Pattern[str]
    """Negations that don't count as a second one."""
    aside: re.Pattern[str]
    """Clauses that claim nothing."""
    question: re.Pattern[str]
    """Clauses with a question mark that are questions, not guesses."""
    context: re.Pattern[str]
    """Asides that ask for clarification: an answer of asides alone abstains if it has one."""


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_ADVERBS = r"(?: (?:\w+ly|just|even|yet|also|quite|any))* "
_NOT = r"(?: not|n'?t|'t)"
_SOURCE = "(?:information|info|data|details?|context|results?|knowledge|sources?|access|answers?|idea|clue|records?)"
_KNOWN = "(?:available|found|provided|given|known)"
_ABOUT = "(?:about|on|for|regarding|concerning)"
_ABLE = (
    "(?:find|provide|answer|verify|confirm|determine|identify|locate|say|tell|give|offer|help|assist|recall|share|"
    r"access|speak|comment|know|state|discuss|supply|name|be (?:sure|certain)|do that)\b"
)
_TELLS = r"(?:mention|contain|include|provide|specify|say|state|give|tell|cover|answer|identify)\b"
_UNCLEAR = (
    "(?:unclear|unknown|uncertain|ambiguous|vague|incomplete|too (?:vague|broad)|"
    r"not (?:\w+ly )?(?:clear|known|certain|specified))"
)
_ENGLISH = _Language(
    clause=_any(
        r"\s*[;:—…]\s*",
        r"\s–\s",
        r",?\s+(?=(?:but|however|yet|though|although)\b)",
        r",\s+(?=(?:and|so|because|as|since|while)\b)",
        r",?\s+and\s+(?=I\b)",
        # A main clause after a mere comma.
        r",\s+(?=(?:it|he|she|they|there|the\s\w+|[A-Z][\w']+)(?:\s\w+){0,2}\s(?:is|was|are|were|has|had)\b)",
    ),
    opening=re.compile(
        r"(?:(?:as (?:of|an?|far as|your|my)|based on|according to|if|for|without|unless|in order to|given|after) "
        r"[^,]{1,120}, *"
        r"|as an? [^,]{0,60}?(?:ai|model|assistant|chatbot) (?=i\b)"
        r"|(?:oh|well|h+m+|uh|honestly|frankly|actually|currently|unfortunately|regrettably|sadly|sorry|no(?=,)"
        r"|(?:my )?(?:sincere )?apologies|i(?:'m| am) (?:\w+ )?(?:sorry|afraid)(?: that)?|i apologi[sz]e"
        r"|i (?:regret|must admit|have to admit)(?: to say)?(?: that)?|to (?:the best of )?my knowledge"
        r"|to be (?:honest|fair|frank)|at (?:the moment|present|this (?:time|point))|right now|that said"
        r"|but|and|so|however|yet|though|although|because|as|since|while|therefore|thus)\b[ ,.!]*)+",
        re.IGNORECASE,
    ),
    # In lower case but for "I", since a title has capitals: "I Don't Know How to Love Him".
    lack=_any(
        # I do not know; we did not find; I cannot say; I'm unable to help; I don't think I know.
        rf"i{_ADVERBS}?(?:do|did){_NOT}{_ADVERBS}(?:know|recall|recogni[sz]e|remember|have|possess|find|understand)\b",
        rf"we{_ADVERBS}?(?:do|did){_NOT}{_ADVERBS}(?:find|have (?:\w+ ){{0,3}}{_SOURCE})\b",
        rf"(?:i|we){_ADVERBS}?(?:can|could|wo|would|will)(?:{_NOT}|not)(?: be able to)?{_ADVERBS}{_ABLE}",
        rf"(?:i|we)(?:'m|'re| am| are| was| were)(?:{_NOT}{_ADVERBS}able|{_ADVERBS}unable) to{_ADVERBS}{_ABLE}",
        rf"i do{_NOT} (?:think|believe) [iI](?:'m|'ve| have| know| can| could| am)\b",
        # I'm not sure; I have no information; I've never heard; I know nothing.
        rf"i(?:'m| am) not{_ADVERBS}(?:sure|certain|aware|familiar|confident|acquainted)\b",
        rf"i(?:'m| am){_ADVERBS}un(?:sure|certain|aware|familiar)\b",
        rf"(?:i|we)(?:'ve| have| had){_ADVERBS}(?:no|insufficient|limited|too little|not enough) "
        rf"(?:\w+ ){{0,3}}{_SOURCE}\b",
        rf"(?:i|we)(?:(?:'ve| have)(?: never| not)| haven't){_ADVERBS}(?:heard|seen|found|come across|encountered)\b",
        rf"(?:i|we)(?:(?:'ve| have) not| haven't){_ADVERBS}been able\b",
        rf"(?:i|we){_ADVERBS}(?:lack|know nothing|know (?:very )?little)\b",
        # My knowledge does not ...; this is beyond what I know; that does not ring a bell.
        r"my (?:\w+ ){0,2}(?:data|knowledge|sources|database|information|records|memory|training)\b.*"
        r"(?:\bnot?\b|n't\b|\bnothing\b|\blimited\b|\black)",
        r"(?:that|this|it)(?: is|'s) (?:beyond|outside) (?:of )?(?:the scope of )?(?:my|what [iI])\b",
        r".{0,120}\b(?:not|n't) (?:familiar|known) to me\b",
        r".{0,120}\b(?:not|\w+n't) ring a bell\b",
        # There is no information about ...; no information is available; details of it are scarce.
        r"there(?: (?:does|do)(?: not|n't) (?:seem|appear) to be|(?: is|'s| are| was)"
        r"(?:n't| not| no| insufficient| limited|(?: very)? little)) (?:\w+ ){0,3}"
        rf"(?:information|info|data|details|context)(?: {_KNOWN})?"
        rf"(?: (?:{_ABOUT}|of|to|in (?:the|your|my|this))\b|\W*$)",
        rf"(?:no|not enough|insufficient|limited|little) (?:\w+ ){{0,2}}{_SOURCE}(?: (?:{_ABOUT}|to)\b.*?)? "
        rf"(?:is|are|was|were|could be|can be|has been|have been)(?: \w+ly)? {_KNOWN}\b",
        rf"(?:no|not enough|insufficient) (?:\w+ ){{0,2}}{_SOURCE}"
        rf"(?: {_ABOUT} (?:this|that|him|her|it|them)(?: \w+)?| to (?:answer|say|tell)\b[^,]*| {_KNOWN})?\W*$",
        rf"{_SOURCE} {_ABOUT}\b.* (?:is|are){_ADVERBS}(?:not{_ADVERBS}{_KNOWN}|unavailable|limited|scarce|unknown)\b",
        # The passages do not mention it.
        rf"(?:the|these|this|your) (?:\w+ )?(?:context|passages?|search results|question|prompt)(?: {_KNOWN})? "
        rf"(?:do|does|did){_NOT}{_ADVERBS}{_TELLS}",
        r"(?:the|these|this|your) (?:provided|given|retrieved|available|supplied|above) (?:\w+ )?"
        rf"(?:documents?|texts?|sources|information) (?:do|does|did){_NOT}{_ADVERBS}{_TELLS}",
        # Whole clauses without a subject: Unknown. Not sure who that is. Cannot be determined.
        r"(?:unknown|unclear|unsure|uncertain|no idea|no clue|n/?a|idk|dunno|not (?:known|available|specified))\W*$",
        r"(?:(?:this|it|that|the (?:answer|question)) )?(?:cannot|can't) be (?:determined|answered|known)[^,]*$",
        rf"(?:it|this|that|the answer)(?:'s| is| remains)(?: \w+ly| still)? {_UNCLEAR}\W*$",
        r"(?:(?:it|this|that)(?:'s| is) )?(?:very |quite )?(?:hard|difficult|impossible) to (?:say|tell|know)\W*$",
        r"(?:the answer is (?:unknown|not known|not available)|(?:it|this|that) is (?:unknown|not known) to me)\W*$",
        rf"(?:not (?:sure|certain)|don't know|do not know|no idea|no clue|never heard|can't say|cannot say|unsure|"
        rf"couldn't {_ABLE}|unable to {_ABLE}|not enough {_SOURCE})"
        r"(?: (?:about|on|for|of|to|who|what|which|when|where|why|how|whether|if|that)\b[^,]*)?\W*$",
    ),
    excepts=_any(
        r"\b(?:except\w*|(?<!rather )than|besides|apart from|aside from|doubts?|denies|deny|disputes?|help but)\b",
        r"\b(?:say|speak|recommend|tell) \w* ?enough\b",
        r"\bbeyond (?!(?:my|what|that\W*$|this\W*$)\b)",
        r"\bwithout (?!(?:more|further|additional|any|access|context|knowing|seeing|having|being|looking|checking|"
        r"guessing|speculating|information|a|the (?:passages?|context|documents?|texts?))\b)",
        # A clause that tells more of what was named: Paris, the capital; Paris, which is the capital.
        r",\s(?:the|an?|which|who|whose|where|when)\s",
    ),
    negation=re.compile(r"\b(?:not|no|never|cannot|nobody|nothing|none|unable|unaware|unsure|lack)\b|n't\b"),
    single=re.compile(r"\bor not\b|\b(?:and|or|nor|neither)\s(?:i\s)?(?:\w+\s?)?(?:n't|not|cannot|no|unable)\b"),
    aside=_any(
        # It is unclear which one you mean: on its own this may also be what is known of the world.
        rf"(?:it|this|that|the \w+|your \w+)(?: is|'s) {_UNCLEAR}\b",
        r"(?:it|this|that)(?: is|'s) (?:impossible|hard|difficult|not possible) to (?:say|tell|know)\b",
        r"please\b(?! (?:note|be aware|remember|know|keep))",
        r"(?:if|perhaps|maybe) you\b",
        r"it would (?:\w+ )?help",
        "feel free|let me know|thank|good luck|i hope|my apologies",
        "(?:try|check|consult|visit|contact|refer|ask|search|look|double-check|verify) ",
        r"you (?:can|could|may|might|should|would|will|need)\b(?: \w+)? "
        "(?:want|wish|try|check|find|look|search|consult|ask|contact|visit|refer|clarify|mean|provide|have|need)",
        r"i(?: do not| don't| would not| wouldn't) (?:want|wish|like)\b",
        r"(?:i|we)(?:'d| would|'ll| will| can| could| may) (?:\w+ ){0,2}?(?:be (?:happy|glad)|love|like|need|recommend|"
        r"suggest|advise|appreciate|prefer|rather|try|help|encourage|do my best)\b",
        r"i (?:recommend|suggest|apologi[sz]e|advise|encourage|appreciate|wish|need|understand (?:that )?you)\b",
        "(?:i|we)(?:'ve| have) (?:searched|looked|checked|tried|reviewed) ",
        r"i(?:'m| am) (?:just |only )?(?:an? )?(?:ai|language model|virtual|large|text)\b",
        # It happened after my last update; she may be a private person; the name might be misspelt.
        r".*\bmy (?:last |latest |most recent |knowledge |training )*(?:update|cutoff|cut-off|training|knowledge)\b",
        r".*\b(?:may|might|could|perhaps|probably|possible|possibly|seems?|appears?)\b.*\b"
        r"(?:private (?:individual|person|citizen|figure)|(?:lesser|little|less)[- ](?:well[- ])?known|"
        r"not (?:\w+ly )?(?:well[- ])?(?:known|documented|notable|public|exist|famous|covered)|"
        r"fictional|fictitious|misspel\w+|typo|mistake|confus\w+|obscure|local|made[- ]up|recent)\b",
    ),
    question=_any(
        "(?:wh|how|is|are|was|were|do|does|did|can|could|would|will|may|might|should|have|has)", r".*\byou\b"
    ),
    context=_any(
        r".*\b(?:clarif|specif|context|more (?:information|details?)|mean by\b|refer|rephrase|elaborate)",
        r".*\byou (?:\w+ )?mean\b",
    ),
)
_I = "(?:我们?|本人|本模型|本助手)"
_EVEN = "(?:也|还|并|真的|确实|实在|目前|暂时|现在|完全|恐怕|好像|似乎|都)*"
_NOT_KNOWING = "不(?:太|是很|大|怎么|够)?(?:知道|清楚|确定|了解|认识|熟悉|明白|记得|晓得|肯定|敢肯定)"
_UNABLE = (
    "(?:(?:无法|不能|没法|没办法|未能|难以)(?:[为向给][您你]|准确|直接|具体|明确|就此)*(?:回答|提供|确定|确认|核实|查到|查询|"
    "找到|判断|获取|得知|给出|告诉|解答|访问|验证|帮助|作答|答复|识别)"
    "|[找查]不到|没有?(?:听说过|听过|找到|查到|搜到|见过|查询到)|未(?:找到|查到|查询到|检索到))"
)
_NONE = (
    "(?:没有|暂?无|暂没有|缺乏|查无|找不到|查不到).{0,40}"
    "(?:信息|资讯|资料|数据|记录|结果|答案|内容|线索|背景|上下文|印象|权限|看法|观点)"
)
_ASKS = "(?=.*(?:谁|什么|哪|何|怎|多少|几|是否|么|吗))"
_CHINESE = _Language(
    clause=re.compile("(?<=[，,；;：:。！!？?…～~\n])"),
    opening=re.compile(
        "(?:(?:(?:非常|十分|真的|很|真|实在)?(?:抱歉|对不起|不好意思|遗憾|可惜)|但是?|不过|可是|然而|因此|所以|因为|由于|虽然|"
        r"而且|并且|同时|另外|此外|其实|说实话|老实说|坦白说|嗯+|哦|呃)[，,。！!… ]*)+"
    ),
    lack=_any(
        # 我不知道; 这个问题我不太清楚; 我对此没有了解. Not 他说我不知道.
        rf"(?:(?!.*(?:[说写唱叫歌]|问(?!题))).{{0,16}})?{_I}{_EVEN}(?:对.{{1,20}}?)?{_EVEN}(?:{_NOT_KNOWING}|{_UNABLE}|{_NONE})",
        r"我的(?:知识|训练|数据|资料)[^，]{0,12}(?:没有|不包含|不包括|未包含|缺乏|有限)",
        # Without a subject: 不知道他是谁; 未能找到该书; 暂无相关资料. Not 无法确定性原理由海森堡提出.
        rf"(?:也|真的|实在)?{_NOT_KNOWING}(?:(?:这|那|此|该|答案|[您你他她它])[^的]{{0,8}}\W*$|\W*$|{_ASKS})",
        rf"(?:目前|暂时|现在)?{_UNABLE}(?:(?=[^是为由于在]*$)|{_ASKS})",
        rf"(?:目前|暂时|现在)?{_NONE}(?:[来以可](?:回答|确定|判断|供参考|查|用).{{0,12}})?\W*$",
        "(?:这|那|此|该|它)?(?:个|件)?(?:事|问题|答案)?(?:也|还|很|真的?|实在|确实|目前)*"
        r"(?:不好[说讲]|难[说讲]|说不(?:准|好|清楚?))[了啊呢吧]?\W*$",
        r"无从得知|.{0,20}超出了?我的",
        "(?:文中|上下文|(?:所给|给定|提供|以上|上述)的?.{0,6})[中里]?(?:并|也|都)?(?:没有?|未)(?:提到|提及|说明|包含|涉及|给出)",
    ),
    excepts=re.compile("除|以外|之外|比.*更|怀疑|否认|质疑"),
    negation=re.compile("[不没无未]"),
    single=re.compile(r"(.)[不没]\1|未来|不同|不久|不少"),
    aside=_any(
        ".{0,20}(?:不(?:太|够)?(?:清楚|明确|具体)|含糊|有歧义)",
        "(?:请(?!注意)|麻烦|能否|可否|可以请|能不能|是否|如果|若|如需)",
        ".{0,20}[您你](?:可以?|能|需|想|要|指|提供|说的?是|给|是指|是说|是不是|再|先|核)|.{0,20}[让向为给帮][您你]",
        "建议|希望|欢迎|谢谢|感谢|以便|作为|根据|关于|对于|至于|据我",
        "我(?:很?(?:乐意|愿意)|会尽|可以(?:帮|再|为)|将尽|的(?:知识|训练|数据))",
        "(?:这|它|他|她)?(?:可能|或许|也许).*(?:虚构|笔误|拼写|写错|不存在|冷门|不太?(?:知名|出名|有名|公开)|私人)",
    ),
    question=re.compile(""),
    context=re.compile(".*(?:说明|补充|具体|上下文|背景|指的?是|更多|澄清)"),
)
_CLOSING = re.compile(
    r"(?:[,.!\s]+(?:(?:very |so )?sorry|i(?:'m| am) (?:\w+ )?(?:sorry|afraid)|(?:my )?apologies|unfortunately|honestly"
    r"|to be honest|at the moment|right now)(?: about (?:that|this))?)+(?=\W*$)",
    re.IGNORECASE,
)
"""Words after a clause that don't change its meaning."""
_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_\u3400-\u9fff]")
_MARKUP = re.compile(r"[*_`#>]+|^\s*[-•]\s")
# Titles and quotations: a name, whatever its words.
_QUOTED = re.compile(r'"[^"]{0,300}"|“[^”]{0,300}”|「[^」]{0,300}」|『[^』]{0,300}』|《[^》]{0,300}》')
_SIMPLIFIED = str.maketrans(
    "沒無對資訊請確認識關據數這個問題為聽說過們暫時麼誰還話遺並詢應實從準幾嗎記錄給讓幫範圍線內結該議謝",
    "没无对资讯请确认识关据数这个问题为听说过们暂时么谁还话遗并询应实从准几吗记录给让帮范围线内结该议谢",
)


def abstains(text: str) -> bool:
    """Whether an answer says nothing, or says that it does not know and claims nothing."""
    text = text.strip().strip('"“”「」').replace("’", "'").translate(_SIMPLIFIED)
    language = "zh" if 2 * len(_HAN.findall(text)) > len(_LETTER.findall(text)) else "en"
    forms = {"en": _ENGLISH, "zh": _CHINESE}[language]
    lacks = asks = says = False
    for clause in _clauses(text.lower() if text.isupper() else text, language, forms):
        if len(clause) > _LONGEST:
            return False
        says = True
        if forms.lack.match(clause):
            if forms.excepts.search(clause) or len(forms.negation.findall(forms.single.sub("", clause))) > 1:
                return False
            lacks = True
        elif forms.aside.match(clause) or (clause.endswith(("?", "？")) and forms.question.match(clause)):
            asks = asks or forms.context.match(clause) is not None
        else:
            return False
    return lacks or asks or not says


def _clauses(text: str, language: str, forms: _Language) -> Iterator[str]:
    """Clauses without quotations, markup and opening words; clauses of opening words alone are left out."""
    text = _MARKUP.sub("", _QUOTED.sub("Q", text))
    for start, end in sentences.split(text, language):
        for clause in forms.clause.split(text[start:end]):
            clause = " ".join(clause.split())
            if found := forms.opening.match(clause):
                clause = clause[found.end() :]
            clause = _CLOSING.sub("", clause[: _LONGEST + 1])
            if any(character.isalnum() for character in clause):
                yield clause[:1].lower() + clause[1:]
