"""Ordinary text in ten languages and any text at all, for the tests of cleaning."""

from __future__ import annotations

from hypothesis import strategies as st

ORDINARY = {
    "en": "The harbour was quiet in the morning. A few fishermen repaired their nets while the gulls waited on the "
    "wall. By noon the market had opened, and people came from every village around the bay to buy bread, cheese and "
    "fresh fish. Nobody spoke about the storm that had been announced for the evening, although everyone had heard "
    "of it. When the first clouds appeared over the hills, the boats were already tied up and the shutters closed.",
    "de": "Am Morgen war der Hafen still. Einige Fischer flickten ihre Netze, während die Möwen auf der Mauer "
    "warteten. Gegen Mittag öffnete der Markt, und aus allen Dörfern rund um die Bucht kamen Leute, um Brot, Käse und "
    "frischen Fisch zu kaufen. Niemand sprach über den Sturm, der für den Abend angekündigt war, obwohl alle davon "
    "gehört hatten. Als die ersten Wolken über den Hügeln erschienen, lagen die Boote schon fest vertäut.",
    "fr": "Le matin, le port était calme. Quelques pêcheurs réparaient leurs filets pendant que les mouettes "
    "attendaient sur le mur. Vers midi, le marché ouvrit ses portes et des gens vinrent de tous les villages voisins "
    "pour acheter du pain, du fromage et du poisson frais. Personne ne parlait de la tempête annoncée pour le soir, "
    "bien que chacun en eût entendu parler. Quand les premiers nuages parurent, les bateaux étaient déjà amarrés.",
    "ru": "Утром в гавани было тихо. Несколько рыбаков чинили сети, а чайки ждали на стене. К полудню открылся рынок, "
    "и люди из всех деревень вокруг залива пришли купить хлеб, сыр и свежую рыбу. Никто не говорил о буре, которую "
    "обещали к вечеру, хотя все о ней слышали. Когда над холмами показались первые облака, лодки уже стояли у причала, "
    "а ставни были закрыты. Старик на скамейке курил трубку и смотрел на море, как делал это каждый день.",
    "el": "Το πρωί το λιμάνι ήταν ήσυχο. Μερικοί ψαράδες επισκεύαζαν τα δίχτυα τους, ενώ οι γλάροι περίμεναν πάνω στον "
    "τοίχο. Το μεσημέρι άνοιξε η αγορά και άνθρωποι ήρθαν από όλα τα χωριά γύρω από τον κόλπο για να αγοράσουν ψωμί, "
    "τυρί και φρέσκο ψάρι. Κανείς δεν μιλούσε για την καταιγίδα που είχε προβλεφθεί για το βράδυ, αν και όλοι είχαν "
    "ακούσει γι' αυτήν. Όταν φάνηκαν τα πρώτα σύννεφα, οι βάρκες ήταν ήδη δεμένες.",
    "ar": "كان الميناء هادئا في الصباح. كان بعض الصيادين يصلحون شباكهم بينما كانت النوارس تنتظر على الجدار. وعند الظهر "
    "فتح السوق أبوابه وجاء الناس من جميع القرى حول الخليج لشراء الخبز والجبن والسمك الطازج. لم يتحدث أحد عن العاصفة "
    "التي أعلن عنها في المساء رغم أن الجميع سمعوا بها. وعندما ظهرت الغيوم الأولى فوق التلال كانت القوارب مربوطة "
    "والنوافذ مغلقة، وجلس رجل عجوز على مقعده ينظر إلى البحر كما يفعل كل يوم.",
    "hi": "सुबह बंदरगाह शांत था। कुछ मछुआरे अपने जाल ठीक कर रहे थे और पक्षी दीवार पर प्रतीक्षा कर रहे थे। दोपहर तक बाज़ार खुल गया और "
    "खाड़ी के आसपास के सभी गाँवों से लोग रोटी, पनीर और ताज़ी मछली खरीदने आए। शाम के लिए घोषित तूफ़ान के बारे में किसी ने बात नहीं की, "
    "हालाँकि सबने उसके बारे में सुना था। जब पहाड़ियों के ऊपर पहले बादल दिखाई दिए, तब तक नावें बाँधी जा चुकी थीं और खिड़कियाँ बंद थीं।",
    "zh": "早晨的港口很安静。几个渔民在修补渔网，海鸥在墙上等待。到了中午，市场开门了，"
    "海湾周围各个村庄的人都来买面包、奶酪和新鲜的鱼。虽然大家都听说了傍晚会有暴风雨，却没有人谈起它。当第一片乌云出现在山丘上空时，船只已经系好，百叶窗也关上了。"
    "一位老人坐在长凳上抽着烟斗，像往常一样望着大海。他的孙女跑过来，问他明天能不能一起去钓鱼。老人笑了笑，点了点头。",
    "th": "ตอนเช้าท่าเรือเงียบสงบ ชาวประมงสองสามคนกำลังซ่อมอวนในขณะที่นกนางนวลรออยู่บนกำแพง พอถึงเที่ยงตลาดก็เปิด "
    "และผู้คนจากทุกหมู่บ้านรอบอ่าวก็มาซื้อขนมปัง เนยแข็ง และปลาสด ไม่มีใครพูดถึงพายุที่ประกาศไว้สำหรับตอนเย็น แม้ว่าทุกคนจะได้ยินเรื่องนี้แล้ว "
    "เมื่อเมฆก้อนแรกปรากฏขึ้นเหนือเนินเขา เรือก็ถูกผูกไว้เรียบร้อยและหน้าต่างก็ปิดสนิท",
    "sw": "Asubuhi bandari ilikuwa tulivu. Wavuvi wachache walikuwa wakitengeneza nyavu zao huku ndege wakisubiri juu "
    "ya ukuta. Kufikia adhuhuri soko lilifunguliwa, na watu walikuja kutoka kila kijiji kando ya ghuba kununua mkate, "
    "jibini na samaki wabichi. Hakuna aliyezungumza kuhusu dhoruba iliyotangazwa kwa jioni, ingawa kila mtu alikuwa "
    "ameisikia. Mawingu ya kwanza yalipoonekana juu ya vilima, mashua zilikuwa tayari zimefungwa na madirisha pia.",
}

PARTS = ["a", "b", "ab", " ", " ", "\n", "\n\n", "中", "文", "ก", "\u0e31", "é", "e\u0301", "ß", "İ", "@", "a@b.de",
         "+49 30", ".", "81.2.69.160", "::1", "2001:db8::1", "\u200c", "\ufeff", "\x00", "\ud800", "\U0001f600",
         "\U000e0001", "Ａ"]  # fmt: skip

ANY_TEXT = st.one_of(st.text(st.characters(), max_size=80), st.lists(st.sampled_from(PARTS), max_size=120).map("".join))
