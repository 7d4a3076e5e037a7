"""Japanese: lexicon and sentence patterns (plain style, particles, counters, verb last, no spaces)."""

from __future__ import annotations

from data_prep.demo_corpus.realiser import Lexicon, Realiser, is_female
from data_prep.demo_corpus.sentences import (
    Although,
    Because,
    Deal,
    Exists,
    Give,
    Go,
    Manner,
    Meet,
    NotGo,
    Possession,
    Purpose,
    Spend,
    Spot,
    Subject,
    Tell,
    Thing,
    Want,
    WeatherScene,
)

# nouns: noun, counter. adjectives: before a noun. verbs: past, dictionary form, stem before ます.
# meetings and spots: particle, past. states: before と言った.
TABLE = """
[people: 1]
teacher=教師; doctor=医者; nurse=看護師; baker=パン屋; neighbour=隣人; farmer=農夫; student=学生; singer=歌手
driver=運転手; cook=料理人; gardener=庭師; grandmother=祖母; grandfather=祖父; aunt=おば; uncle=おじ; painter=画家
writer=作家; soldier=兵士; fisherman=漁師; tailor=仕立て屋; lawyer=弁護士; engineer=技師; carpenter=大工
waiter=ウェイター; queen=女王; king=国王; journalist=記者; dancer=ダンサー; postman=郵便配達員; policeman=警官
princess=王女; prince=王子
[nouns: 2]
apple=りんご/個; cake=ケーキ/個; orange=オレンジ/個; egg=卵/個; fish=魚/匹; tomato=トマト/個; onion=玉ねぎ/個
potato=じゃがいも/個; lemon=レモン/個; pear=梨/個; melon=メロン/個; banana=バナナ/本; carrot=にんじん/本
cucumber=きゅうり/本; book=本/冊; letter=手紙/通; postcard=絵葉書/枚; report=報告書/通; newspaper=新聞/部; map=地図/枚
coat=コート/着; hat=帽子/つ; shirt=シャツ/枚; dress=ドレス/着; scarf=マフラー/本; skirt=スカート/枚; bag=かばん/つ
jacket=上着/着; cup=カップ/つ; plate=皿/枚; knife=ナイフ/本; vase=花瓶/つ; bottle=瓶/本; key=鍵/つ; lamp=ランプ/つ
alarm_clock=目覚まし時計/つ; chair=椅子/つ; mirror=鏡/枚; umbrella=傘/本; guitar=ギター/本; radio=ラジオ/台
bicycle=自転車/台; basket=籠/つ; ring=指輪/つ; candle=ろうそく/本; bell=鈴/つ; doll=人形/つ; ball=ボール/つ
suitcase=スーツケース/つ; blanket=毛布/枚
[adjectives: 1]
small=小さい; big=大きい; sweet=甘い; fresh=新鮮な; expensive=高価な; cheap=安い; beautiful=美しい; round=丸い
heavy=重い; strange=奇妙な; green=緑の; yellow=黄色い; old=古い; new=新しい; long=長い; short=短い
interesting=面白い; important=重要な; dirty=汚い; red=赤い; blue=青い; white=白い; black=黒い; clean=清潔な
[verbs: 3]
buy=買った/買う/買い; sell=売った/売る/売り; find=見つけた/見つける/見つけ; lose=なくした/なくす/なくし
choose=選んだ/選ぶ/選び; look_for=探した/探す/探し; order=注文した/注文する/注文し; examine=調べた/調べる/調べ
draw=描いた/描く/描き; praise=褒めた/褒める/褒め; see=見た/見る/見; recognise=見分けた/見分ける/見分け
wash=洗った/洗う/洗い; repair=修理した/修理する/修理し; damage=壊した/壊す/壊し; read=読んだ/読む/読み
write=書いた/書く/書き; eat=食べた/食べる/食べ; cut=切った/切る/切り; taste=味わった/味わう/味わい
clean=磨いた/磨く/磨き
[gifts: 1]
give=あげた; show=見せた; send=送った; lend=貸した
[spots: 2]
leave=に/残した; hide=に/隠した; find=で/見つけた
[meetings: 2]
meet=に/会った; see=を/見かけた; greet=に/挨拶した; recognise=に/気づいた; look_for=を/探した
[motions: 1]
go=行った; run=走って行った; return=戻った; drive=車で行った; walk=歩いて行った; come=来た
[activities: 1]
sleep=眠った; dance=踊った; sing=歌った; work=働いた; laugh=笑った; wait=待った; rest=休んだ; play=遊んだ; cry=泣いた
study=勉強した
[feelings: 1]
happy=喜んでいた; sad=悲しんでいた; angry=怒っていた; worried=心配していた; surprised=驚いていた
calm=落ち着いていた; tired=疲れていた; hungry=お腹が空いていた; thirsty=喉が渇いていた; sick=病気だった
[places: 1]
market=市場; garden=庭; park=公園; school=学校; hospital=病院; library=図書館; station=駅; restaurant=レストラン
church=教会; village=村; forest=森; beach=浜辺; museum=博物館; theatre=劇場; kitchen=台所; office=事務所
factory=工場; castle=城; harbour=港; hotel=ホテル; farm=農場; island=島; airport=空港; bridge=橋
[states: 1]
empty=空っぽだ; quiet=静かだ; dirty=汚い; clean=清潔だ; beautiful=美しい; dangerous=危険だ; dark=暗い; far=遠い
[landmarks: 1]
on_table=テーブルの上; under_table=テーブルの下; by_window=窓のそば; behind_door=ドアの後ろ; on_shelf=棚の上
under_bed=ベッドの下; in_cupboard=戸棚の中; under_tree=木の下; on_floor=床の上; by_stove=ストーブのそば
[times: 1]
monday=月曜日に; wednesday=水曜日に; friday=金曜日に; saturday=土曜日に; yesterday=昨日; morning=朝; evening=夕方
night=夜; noon=正午に; last_week=先週; last_month=先月; last_year=去年; spring=春に; summer=夏に; autumn=秋に
winter=冬に
[weather: 1]
rain=雨が降っていた; snow=雪が降っていた; wind=強い風が吹いていた; cold=寒かった; heat=暑かった
fog=霧が出ていた; sun=日が照っていた; storm=嵐が来ていた; clouds=曇っていた
[adverbs: 1]
slowly=ゆっくりと; quickly=素早く; carefully=慎重に; quietly=静かに; secretly=こっそりと; suddenly=突然; gladly=喜んで
patiently=辛抱強く
[units: 1]
hour=時間; day=日間; week=週間; month=か月間
[numbers: 1]
2=二; 3=三; 4=四; 5=五; 6=六; 7=七; 8=八; 9=九; 10=十
"""


class Japanese(Realiser):
    """Japanese in the plain style of narration."""

    code = "ja"
    lexicon = Lexicon(TABLE)
    full_stop = "。"

    def thing(self, thing: Thing) -> str:
        """古い鍵; その古い鍵; 三つの古い鍵 (without its particle)."""
        noun, counter = self.lexicon["nouns"][thing.noun]
        phrase = self.word("adjectives", thing.adjective) + noun
        if thing.number > 1:
            # The counter つ ends at nine: 九つ, but 十.
            suffix = "" if counter == "つ" and thing.number == 10 else counter
            return f"{self.word('numbers', thing.number)}{suffix}の{phrase}"
        return ("その" if thing.definite else "") + phrase

    def _subject(self, subject: Subject) -> str:
        name = self.word("people", subject.person)
        return (("彼女" if is_female(subject) else "彼") if subject.pronoun else name) + "は"

    def _opening(self, time: str, subject: Subject) -> str:
        return f"{self.word('times', time)}、{self._subject(subject)}"

    def deal(self, s: Deal) -> str:
        """月曜日に、教師は市場で古い鍵を買った。"""
        deed = f"{self.word('places', s.place)}で{self.thing(s.thing)}を{self.word('verbs', s.verb)}"
        return f"{self._opening(s.time, s.subject)}{deed}"

    def manner(self, s: Manner) -> str:
        """教師は公園でゆっくりと長い手紙を読んだ。"""
        deed = f"{self.word('adverbs', s.adverb)}{self.thing(s.thing)}を{self.word('verbs', s.verb)}"
        return f"{self._subject(s.subject)}{self.word('places', s.place)}で{deed}"

    def give(self, s: Give) -> str:
        """夕方、教師はパン屋に古い鍵を見せた。"""
        deed = f"{self.word('people', s.receiver)}に{self.thing(s.thing)}を{self.word('gifts', s.verb)}"
        return f"{self._opening(s.time, s.subject)}{deed}"

    def go(self, s: Go) -> str:
        """金曜日に、教師はパン屋と港に歩いて行った。"""
        deed = f"{self.word('places', s.place)}に{self.word('motions', s.motion)}"
        return f"{self._opening(s.time, s.subject)}{self.word('people', s.companion)}と{deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """朝、村では雨が降っていたが、教師は踊った。"""
        scene = f"{self.word('times', s.time)}、{self.word('places', s.place)}では{self.word('weather', s.weather)}"
        return f"{scene}が、{self._subject(s.subject)}{self.word('activities', s.activity)}"

    def because(self, s: Because) -> str:
        """パン屋が赤いボールを見つけたので、教師は喜んでいた。"""
        reason = f"{self.word('people', s.other)}が{self.thing(s.thing)}を{self.word('verbs', s.verb)}ので"
        return f"{reason}、{self._subject(s.subject)}{self.word('feelings', s.feeling)}"

    def exists(self, s: Exists) -> str:
        """台所の窓のそばに三つの古いランプがあった。"""
        where = f"{self.word('places', s.place)}の{self.word('landmarks', s.landmark)}"
        return f"{where}に{self.thing(s.thing)}があった"

    def spot(self, s: Spot) -> str:
        """教師は慎重に古い鍵をベッドの下に隠した。"""
        particle, verb = self.lexicon["spots"][s.verb]
        where = self.word("landmarks", s.landmark) + particle
        return f"{self._subject(s.subject)}{self.word('adverbs', s.adverb)}{self.thing(s.thing)}を{where}{verb}"

    def possession(self, s: Possession) -> str:
        """教師の古いかばんは図書館のテーブルの下にあった。"""
        thing = f"{self.word('adjectives', s.thing.adjective)}{self.word('nouns', s.thing.noun)}"
        where = f"{self.word('places', s.place)}の{self.word('landmarks', s.landmark)}"
        return f"{self.word('people', s.owner)}の{thing}は{where}にあった"

    def want(self, s: Want) -> str:
        """教師は市場で古い鍵を買いたがっていた (買うことにした)."""
        _, plain, stem = self.lexicon["verbs"][s.verb]
        verb = f"{plain}ことにした" if s.decided else f"{stem}たがっていた"
        return f"{self._subject(s.subject)}{self.word('places', s.place)}で{self.thing(s.thing)}を{verb}"

    def tell(self, s: Tell) -> str:
        """夜、教師はパン屋に、城は空っぽだと言った。"""
        news = f"{self.word('places', s.place)}は{self.word('states', s.state)}と言った"
        return f"{self._opening(s.time, s.subject)}{self.word('people', s.listener)}に、{news}"

    def not_go(self, s: NotGo) -> str:
        """月曜日に、雨が降っていたので、教師は市場に行かなかった。"""
        reason = f"{self.word('times', s.time)}、{self.word('weather', s.weather)}ので"
        return f"{reason}、{self._subject(s.subject)}{self.word('places', s.place)}に行かなかった"

    def spend(self, s: Spend) -> str:
        """教師はパン屋と公園で三時間踊った。"""
        duration = f"{self.word('numbers', s.number)}{self.word('units', s.unit)}"
        where = f"{self.word('people', s.companion)}と{self.word('places', s.place)}で"
        return f"{self._subject(s.subject)}{where}{duration}{self.word('activities', s.activity)}"

    def purpose(self, s: Purpose) -> str:
        """教師は古い鍵を買うために市場に走って行った。"""
        aim = f"{self.thing(s.thing)}を{self.word('verbs', s.verb, 1)}ために"
        return f"{self._subject(s.subject)}{aim}{self.word('places', s.place)}に{self.word('motions', s.motion)}"

    def meet(self, s: Meet) -> str:
        """昨日、教師は橋でパン屋に会った。"""
        particle, verb = self.lexicon["meetings"][s.verb]
        deed = f"{self.word('places', s.place)}で{self.word('people', s.person)}{particle}{verb}"
        return f"{self._opening(s.time, s.subject)}{deed}"

    def although(self, s: Although) -> str:
        """教師はお腹が空いていたが、市場で二個の丸いケーキを売った。"""
        deed = f"{self.word('places', s.place)}で{self.thing(s.thing)}を{self.word('verbs', s.verb)}"
        return f"{self._subject(s.subject)}{self.word('feelings', s.feeling)}が、{deed}"
