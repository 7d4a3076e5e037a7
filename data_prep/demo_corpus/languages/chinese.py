"""Chinese (simplified): lexicon and sentence patterns (measure words, no inflection, no spaces)."""

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

# nouns: measure word, noun. verbs: with 了, bare. gifts: {p} = receiver, {o} = thing. spots: {o} = thing, {w} = where.
# activities: in progress, with a duration. places: noun, in or on it, to it.
TABLE = """
[people: 1]
teacher=老师; doctor=医生; nurse=护士; baker=面包师; neighbour=邻居; farmer=农民; student=学生; singer=歌手; driver=司机
cook=厨师; gardener=园丁; grandmother=奶奶; grandfather=爷爷; aunt=阿姨; uncle=叔叔; painter=画家; writer=作家
soldier=士兵; fisherman=渔夫; tailor=裁缝; lawyer=律师; engineer=工程师; carpenter=木匠; waiter=服务员; queen=女王
king=国王; journalist=记者; dancer=舞蹈家; postman=邮递员; policeman=警察; princess=公主; prince=王子
[nouns: 2]
apple=个/苹果; cake=个/蛋糕; orange=个/橙子; egg=个/鸡蛋; fish=条/鱼; tomato=个/西红柿; onion=个/洋葱; potato=个/土豆
lemon=个/柠檬; pear=个/梨; melon=个/甜瓜; banana=根/香蕉; carrot=根/胡萝卜; cucumber=根/黄瓜; book=本/书; letter=封/信
postcard=张/明信片; report=份/报告; newspaper=份/报纸; map=张/地图; coat=件/大衣; hat=顶/帽子; shirt=件/衬衫
dress=条/连衣裙; scarf=条/围巾; skirt=条/裙子; bag=个/包; jacket=件/夹克; cup=个/杯子; plate=个/盘子; knife=把/刀
vase=个/花瓶; bottle=个/瓶子; key=把/钥匙; lamp=盏/灯; alarm_clock=个/闹钟; chair=把/椅子; mirror=面/镜子
umbrella=把/雨伞; guitar=把/吉他; radio=台/收音机; bicycle=辆/自行车; basket=个/篮子; ring=枚/戒指; candle=根/蜡烛
bell=个/铃铛; doll=个/娃娃; ball=个/球; suitcase=个/行李箱; blanket=条/毯子
[adjectives: 1]
small=小; big=大; sweet=很甜的; fresh=新鲜的; expensive=昂贵的; cheap=便宜的; beautiful=漂亮的; round=圆圆的
heavy=很重的; strange=奇怪的; green=绿色的; yellow=黄色的; old=旧; new=新; long=很长的; short=很短的
interesting=有趣的; important=重要的; dirty=很脏的; red=红色的; blue=蓝色的; white=白色的; black=黑色的; clean=干净的
[verbs: 2]
buy=买了/买; sell=卖了/卖; find=找到了/找到; lose=弄丢了/弄丢; choose=挑选了/挑选; look_for=寻找了/寻找
order=订购了/订购; examine=检查了/检查; draw=画了/画; praise=称赞了/称赞; see=看见了/看见; recognise=认出了/认出
wash=洗了/洗; repair=修理了/修理; damage=弄坏了/弄坏; read=读了/读; write=写了/写; eat=吃了/吃; cut=切了/切
taste=品尝了/品尝; clean=擦拭了/擦拭
[gifts: 1]
give=给了{p}{o}; show=给{p}看了{o}; send=给{p}寄了{o}; lend=借给了{p}{o}
[spots: 1]
leave=把{o}留在了{w}; hide=把{o}藏在了{w}; find=在{w}找到了{o}
[meetings: 1]
meet=遇见了; see=看见了; greet=问候了; recognise=认出了; look_for=寻找了
[motions: 1]
go=去了; run=跑到了; return=回到了; drive=开车去了; walk=步行去了; come=来到了
[activities: 2]
sleep=在睡觉/睡了{}; dance=在跳舞/跳了{}的舞; sing=在唱歌/唱了{}的歌; work=在工作/工作了{}; laugh=在笑/笑了{}
wait=在等待/等待了{}; rest=在休息/休息了{}; play=在玩耍/玩耍了{}; cry=在哭/哭了{}; study=在学习/学习了{}
[feelings: 1]
happy=很高兴; sad=很难过; angry=很生气; worried=很担心; surprised=很惊讶; calm=很平静; tired=很累; hungry=很饿
thirsty=很渴; sick=生病了
[places: 3]
market=市场/市场上/市场; garden=花园/花园里/花园; park=公园/公园里/公园; school=学校/学校里/学校
hospital=医院/医院里/医院; library=图书馆/图书馆里/图书馆; station=火车站/火车站里/火车站; restaurant=餐厅/餐厅里/餐厅
church=教堂/教堂里/教堂; village=村子/村子里/村子里; forest=森林/森林里/森林; beach=海滩/海滩上/海滩
museum=博物馆/博物馆里/博物馆; theatre=剧院/剧院里/剧院; kitchen=厨房/厨房里/厨房; office=办公室/办公室里/办公室
factory=工厂/工厂里/工厂; castle=城堡/城堡里/城堡; harbour=港口/港口里/港口; hotel=酒店/酒店里/酒店
farm=农场/农场里/农场; island=岛/岛上/岛上; airport=机场/机场里/机场; bridge=桥/桥上/桥上
[states: 1]
empty=空荡荡的; quiet=很安静; dirty=很脏; clean=很干净; beautiful=很美; dangerous=很危险; dark=很暗; far=很远
[landmarks: 1]
on_table=桌子上; under_table=桌子下面; by_window=窗户旁边; behind_door=门后面; on_shelf=架子上; under_bed=床下面
in_cupboard=柜子里; under_tree=树下面; on_floor=地上; by_stove=炉子旁边
[times: 1]
monday=星期一; wednesday=星期三; friday=星期五; saturday=星期六; yesterday=昨天; morning=早上; evening=傍晚; night=夜里
noon=中午; last_week=上周; last_month=上个月; last_year=去年; spring=春天; summer=夏天; autumn=秋天; winter=冬天
[weather: 1]
rain=下着雨; snow=下着雪; wind=刮着大风; cold=天气很冷; heat=天气很热; fog=起了雾; sun=阳光灿烂; storm=有暴风雨
clouds=阴云密布
[adverbs: 1]
slowly=慢慢地; quickly=迅速地; carefully=小心地; quietly=安静地; secretly=偷偷地; suddenly=突然; gladly=欣然
patiently=耐心地
[units: 1]
hour=个小时; day=天; week=个星期; month=个月
[numbers: 1]
2=两; 3=三; 4=四; 5=五; 6=六; 7=七; 8=八; 9=九; 10=十
"""


class Chinese(Realiser):
    """Simplified Chinese; a definite thing takes 那 and its measure word."""

    code = "zh"
    lexicon = Lexicon(TABLE)
    full_stop = "。"

    def thing(self, thing: Thing) -> str:
        """一把旧钥匙; 那把旧钥匙; 三把旧钥匙."""
        measure, noun = self.lexicon["nouns"][thing.noun]
        count = self.word("numbers", thing.number) if thing.number > 1 else "那" if thing.definite else "一"
        return f"{count}{measure}{self.word('adjectives', thing.adjective)}{noun}"

    def _pronoun(self, subject: Subject) -> str:
        return "她" if is_female(subject) else "他"

    def _subject(self, subject: Subject) -> str:
        return self._pronoun(subject) if subject.pronoun else self.word("people", subject.person)

    def _opening(self, time: str, subject: Subject) -> str:
        return f"{self.word('times', time)}，{self._subject(subject)}"

    def _at(self, place: str) -> str:
        return "在" + self.word("places", place, 1)

    def deal(self, s: Deal) -> str:
        """星期一，老师在市场上买了一把旧钥匙。"""
        deed = f"{self._at(s.place)}{self.word('verbs', s.verb)}{self.thing(s.thing)}"
        return f"{self._opening(s.time, s.subject)}{deed}"

    def manner(self, s: Manner) -> str:
        """老师在公园里慢慢地读了一封很长的信。"""
        deed = f"{self.word('adverbs', s.adverb)}{self.word('verbs', s.verb)}{self.thing(s.thing)}"
        return f"{self._subject(s.subject)}{self._at(s.place)}{deed}"

    def give(self, s: Give) -> str:
        """傍晚，老师给面包师看了一把旧钥匙。"""
        deed = self.word("gifts", s.verb).format(p=self.word("people", s.receiver), o=self.thing(s.thing))
        return f"{self._opening(s.time, s.subject)}{deed}"

    def go(self, s: Go) -> str:
        """星期五，老师和面包师一起步行去了港口。"""
        deed = f"{self.word('motions', s.motion)}{self.word('places', s.place, 2)}"
        return f"{self._opening(s.time, s.subject)}和{self.word('people', s.companion)}一起{deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """早上，村子里下着雨，但是老师在跳舞。"""
        scene = f"{self.word('times', s.time)}，{self.word('places', s.place, 1)}{self.word('weather', s.weather)}"
        return f"{scene}，但是{self._subject(s.subject)}{self.word('activities', s.activity)}"

    def because(self, s: Because) -> str:
        """老师很高兴，因为面包师找到了一个红色的球。"""
        reason = f"{self.word('people', s.other)}{self.word('verbs', s.verb)}{self.thing(s.thing)}"
        return f"{self._subject(s.subject)}{self.word('feelings', s.feeling)}，因为{reason}"

    def exists(self, s: Exists) -> str:
        """厨房里的窗户旁边有三盏旧灯。"""
        return f"{self.word('places', s.place, 1)}的{self.word('landmarks', s.landmark)}有{self.thing(s.thing)}"

    def spot(self, s: Spot) -> str:
        """老师小心地把一把旧钥匙藏在了床下面。"""
        deed = self.word("spots", s.verb).format(o=self.thing(s.thing), w=self.word("landmarks", s.landmark))
        return f"{self._subject(s.subject)}{self.word('adverbs', s.adverb)}{deed}"

    def possession(self, s: Possession) -> str:
        """老师的旧包在图书馆里的桌子下面。"""
        thing = f"{self.word('adjectives', s.thing.adjective)}{self.word('nouns', s.thing.noun, 1)}"
        where = f"{self.word('places', s.place, 1)}的{self.word('landmarks', s.landmark)}"
        return f"{self.word('people', s.owner)}的{thing}在{where}"

    def want(self, s: Want) -> str:
        """老师想在市场上买一把旧钥匙。"""
        deed = f"{self._at(s.place)}{self.word('verbs', s.verb, 1)}{self.thing(s.thing)}"
        return f"{self._subject(s.subject)}{'决定' if s.decided else '想'}{deed}"

    def tell(self, s: Tell) -> str:
        """夜里，老师告诉面包师，城堡空荡荡的。"""
        news = f"{self.word('places', s.place)}{self.word('states', s.state)}"
        return f"{self._opening(s.time, s.subject)}告诉{self.word('people', s.listener)}，{news}"

    def not_go(self, s: NotGo) -> str:
        """星期一，老师没有去市场，因为下着雨。"""
        clause = f"{self._opening(s.time, s.subject)}没有去{self.word('places', s.place, 2)}"
        return f"{clause}，因为{self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """老师和面包师一起在公园里跳了三个小时的舞。"""
        duration = f"{self.word('numbers', s.number)}{self.word('units', s.unit)}"
        deed = f"{self._at(s.place)}{self.word('activities', s.activity, 1).format(duration)}"
        return f"{self._subject(s.subject)}和{self.word('people', s.companion)}一起{deed}"

    def purpose(self, s: Purpose) -> str:
        """为了买一把旧钥匙，老师跑到了市场。"""
        aim = f"为了{self.word('verbs', s.verb, 1)}{self.thing(s.thing)}"
        deed = f"{self.word('motions', s.motion)}{self.word('places', s.place, 2)}"
        return f"{aim}，{self._subject(s.subject)}{deed}"

    def meet(self, s: Meet) -> str:
        """昨天，老师在桥上遇见了面包师。"""
        deed = f"{self._at(s.place)}{self.word('meetings', s.verb)}{self.word('people', s.person)}"
        return f"{self._opening(s.time, s.subject)}{deed}"

    def although(self, s: Although) -> str:
        """老师很饿，但是她在市场上卖了两个圆圆的蛋糕。"""
        deed = f"{self._at(s.place)}{self.word('verbs', s.verb)}{self.thing(s.thing)}"
        feeling = self.word("feelings", s.feeling)
        return f"{self._subject(s.subject)}{feeling}，但是{self._pronoun(s.subject)}{deed}"
