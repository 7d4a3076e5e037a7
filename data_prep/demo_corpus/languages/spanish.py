"""Spanish: lexicon and sentence patterns (two genders, adjectives behind the noun, subject pronouns dropped)."""

from __future__ import annotations

from data_prep.demo_corpus.realiser import Lexicon, Realiser, is_female, join
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

# nouns: gender, singular, plural. adjectives: masculine, feminine, their plurals. verbs: past, infinitive.
# meetings: verb and the preposition of its object. feelings, states: masculine, feminine. places: in, gender, noun.
TABLE = """
[people: 1]
teacher=maestra; doctor=médico; nurse=enfermera; baker=panadero; neighbour=vecina; farmer=granjero
student=estudiante; singer=cantante; driver=conductor; cook=cocinero; gardener=jardinero; grandmother=abuela
grandfather=abuelo; aunt=tía; uncle=tío; painter=pintora; writer=escritora; soldier=soldado; fisherman=pescador
tailor=sastre; lawyer=abogado; engineer=ingeniero; carpenter=carpintero; waiter=camarero; queen=reina; king=rey
journalist=periodista; dancer=bailarina; postman=cartero; policeman=policía; princess=princesa; prince=príncipe
[nouns: 3]
apple=f/manzana/manzanas; cake=m/pastel/pasteles; orange=f/naranja/naranjas; egg=m/huevo/huevos
fish=m/pescado/pescados; tomato=m/tomate/tomates; onion=f/cebolla/cebollas; potato=f/patata/patatas
lemon=m/limón/limones; pear=f/pera/peras; melon=m/melón/melones; banana=m/plátano/plátanos
carrot=f/zanahoria/zanahorias; cucumber=m/pepino/pepinos; book=m/libro/libros; letter=f/carta/cartas
postcard=f/postal/postales; report=m/informe/informes; newspaper=m/periódico/periódicos; map=m/mapa/mapas
coat=m/abrigo/abrigos; hat=m/sombrero/sombreros; shirt=f/camisa/camisas; dress=m/vestido/vestidos
scarf=f/bufanda/bufandas; skirt=f/falda/faldas; bag=m/bolso/bolsos; jacket=f/chaqueta/chaquetas; cup=f/taza/tazas
plate=m/plato/platos; knife=m/cuchillo/cuchillos; vase=m/jarrón/jarrones; bottle=f/botella/botellas
key=f/llave/llaves; lamp=f/lámpara/lámparas; alarm_clock=m/despertador/despertadores; chair=f/silla/sillas
mirror=m/espejo/espejos; umbrella=m/paraguas/paraguas; guitar=f/guitarra/guitarras; radio=f/radio/radios
bicycle=f/bicicleta/bicicletas; basket=f/cesta/cestas; ring=m/anillo/anillos; candle=f/vela/velas
bell=f/campana/campanas; doll=f/muñeca/muñecas; ball=f/pelota/pelotas; suitcase=f/maleta/maletas
blanket=f/manta/mantas
[adjectives: 4]
small=pequeño/pequeña/pequeños/pequeñas; big=grande/grande/grandes/grandes; sweet=dulce/dulce/dulces/dulces
fresh=fresco/fresca/frescos/frescas; expensive=caro/cara/caros/caras; cheap=barato/barata/baratos/baratas
beautiful=hermoso/hermosa/hermosos/hermosas; round=redondo/redonda/redondos/redondas
heavy=pesado/pesada/pesados/pesadas; strange=extraño/extraña/extraños/extrañas; green=verde/verde/verdes/verdes
yellow=amarillo/amarilla/amarillos/amarillas; old=viejo/vieja/viejos/viejas; new=nuevo/nueva/nuevos/nuevas
long=largo/larga/largos/largas; short=corto/corta/cortos/cortas
interesting=interesante/interesante/interesantes/interesantes
important=importante/importante/importantes/importantes; dirty=sucio/sucia/sucios/sucias; red=rojo/roja/rojos/rojas
blue=azul/azul/azules/azules; white=blanco/blanca/blancos/blancas; black=negro/negra/negros/negras
clean=limpio/limpia/limpios/limpias
[verbs: 2]
buy=compró/comprar; sell=vendió/vender; find=encontró/encontrar; lose=perdió/perder; choose=eligió/elegir
look_for=buscó/buscar; order=pidió/pedir; examine=examinó/examinar; draw=dibujó/dibujar; praise=elogió/elogiar
see=vio/ver; recognise=reconoció/reconocer; wash=lavó/lavar; repair=reparó/reparar; damage=dañó/dañar
read=leyó/leer; write=escribió/escribir; eat=comió/comer; cut=cortó/cortar; taste=probó/probar; clean=limpió/limpiar
[gifts: 1]
give=dio; show=mostró; send=envió; lend=prestó
[spots: 1]
leave=dejó; hide=escondió; find=encontró
[meetings: 2]
meet=se encontró/con; see=vio/a; greet=saludó/a; recognise=reconoció/a; look_for=buscó/a
[motions: 1]
go=fue; run=corrió; return=volvió; drive=fue en coche; walk=fue a pie; come=vino
[activities: 1]
sleep=durmió; dance=bailó; sing=cantó; work=trabajó; laugh=rio; wait=esperó; rest=descansó; play=jugó; cry=lloró
study=estudió
[feelings: 2]
happy=estaba contento/estaba contenta; sad=estaba triste/estaba triste; angry=estaba enfadado/estaba enfadada
worried=estaba preocupado/estaba preocupada; surprised=estaba sorprendido/estaba sorprendida
calm=estaba tranquilo/estaba tranquila; tired=estaba cansado/estaba cansada; hungry=tenía hambre/tenía hambre
thirsty=tenía sed/tenía sed; sick=estaba enfermo/estaba enferma
[places: 3]
market=en/m/mercado; garden=en/m/jardín; park=en/m/parque; school=en/f/escuela; hospital=en/m/hospital
library=en/f/biblioteca; station=en/f/estación; restaurant=en/m/restaurante; church=en/f/iglesia; village=en/m/pueblo
forest=en/m/bosque; beach=en/f/playa; museum=en/m/museo; theatre=en/m/teatro; kitchen=en/f/cocina
office=en/f/oficina; factory=en/f/fábrica; castle=en/m/castillo; harbour=en/m/puerto; hotel=en/m/hotel
farm=en/f/granja; island=en/f/isla; airport=en/m/aeropuerto; bridge=en/m/puente
[states: 2]
empty=estaba vacío/estaba vacía; quiet=estaba silencioso/estaba silenciosa; dirty=estaba sucio/estaba sucia
clean=estaba limpio/estaba limpia; beautiful=era hermoso/era hermosa; dangerous=era peligroso/era peligrosa
dark=estaba oscuro/estaba oscura; far=estaba lejos/estaba lejos
[landmarks: 1]
on_table=sobre la mesa; under_table=debajo de la mesa; by_window=junto a la ventana; behind_door=detrás de la puerta
on_shelf=en el estante; under_bed=debajo de la cama; in_cupboard=dentro del armario; under_tree=debajo del árbol
on_floor=en el suelo; by_stove=al lado de la estufa
[times: 1]
monday=el lunes; wednesday=el miércoles; friday=el viernes; saturday=el sábado; yesterday=ayer
morning=por la mañana; evening=por la tarde; night=por la noche; noon=al mediodía; last_week=la semana pasada
last_month=el mes pasado; last_year=el año pasado; spring=en primavera; summer=en verano; autumn=en otoño
winter=en invierno
[weather: 1]
rain=llovía; snow=nevaba; wind=soplaba un viento fuerte; cold=hacía frío; heat=hacía calor; fog=había niebla
sun=brillaba el sol; storm=había una tormenta; clouds=estaba nublado
[adverbs: 1]
slowly=lentamente; quickly=rápidamente; carefully=con cuidado; quietly=en silencio; secretly=en secreto
suddenly=de repente; gladly=con gusto; patiently=con paciencia
[units: 1]
hour=horas; day=días; week=semanas; month=meses
[numbers: 1]
2=dos; 3=tres; 4=cuatro; 5=cinco; 6=seis; 7=siete; 8=ocho; 9=nueve; 10=diez
"""


class Spanish(Realiser):
    """Spanish; `a el` and `de el` contract, and a person as direct object takes `a`."""

    code = "es"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """Una llave vieja; la llave vieja; tres llaves viejas."""
        gender, singular, plural = self.lexicon["nouns"][thing.noun]
        feminine = gender == "f"
        adjective = self.word("adjectives", thing.adjective, int(feminine) + 2 * int(thing.number > 1))
        if thing.number > 1:
            return f"{self.word('numbers', thing.number)} {plural} {adjective}"
        article = ("la" if feminine else "el") if thing.definite else ("una" if feminine else "un")
        return f"{article} {singular} {adjective}"

    def _person(self, person: str, preposition: str = "") -> str:
        name = self.word("people", person)
        if is_female(person):
            return join(preposition, "la", name)
        contracted = {"a": "al", "de": "del"}.get(preposition)
        return f"{contracted} {name}" if contracted else join(preposition, "el", name)

    def _subject(self, subject: Subject) -> str:
        return "" if subject.pronoun else self._person(subject.person)

    def _place(self, place: str) -> str:
        return f"{'la' if self.word('places', place, 1) == 'f' else 'el'} {self.word('places', place, 2)}"

    def _at(self, place: str) -> str:
        return f"{self.word('places', place)} {self._place(place)}"

    def _to(self, place: str) -> str:
        phrase = "a " + self._place(place)
        return "al " + phrase[5:] if phrase.startswith("a el ") else phrase

    def _opening(self, time: str, subject: Subject) -> str:
        return join(self.word("times", time), self._subject(subject))

    def _feeling(self, subject: Subject, feeling: str) -> str:
        return join(self._subject(subject), self.word("feelings", feeling, int(is_female(subject))))

    def deal(self, s: Deal) -> str:
        """El lunes la maestra compró una llave vieja en el mercado."""
        deed = f"{self.word('verbs', s.verb)} {self.thing(s.thing)} {self._at(s.place)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """La maestra leyó lentamente una carta larga en el parque."""
        verb = f"{self.word('verbs', s.verb)} {self.word('adverbs', s.adverb)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self._at(s.place))

    def give(self, s: Give) -> str:
        """Por la tarde la maestra le mostró una llave vieja al panadero (the indirect object is doubled by `le`)."""
        deed = f"le {self.word('gifts', s.verb)} {self.thing(s.thing)} {self._person(s.receiver, 'a')}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """El viernes la maestra fue a pie al puerto con el panadero."""
        deed = f"{self.word('motions', s.motion)} {self._to(s.place)} {self._person(s.companion, 'con')}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """Por la mañana llovía en el pueblo, pero la maestra bailó."""
        scene = f"{self.word('times', s.time)} {self.word('weather', s.weather)} {self._at(s.place)}"
        return f"{scene}, pero {join(self._subject(s.subject), self.word('activities', s.activity))}"

    def because(self, s: Because) -> str:
        """La maestra estaba contenta porque el panadero encontró una pelota roja."""
        reason = f"{self._person(s.other)} {self.word('verbs', s.verb)} {self.thing(s.thing)}"
        return f"{self._feeling(s.subject, s.feeling)} porque {reason}"

    def exists(self, s: Exists) -> str:
        """En la cocina había tres lámparas viejas junto a la ventana."""
        return f"{self._at(s.place)} había {self.thing(s.thing)} {self.word('landmarks', s.landmark)}"

    def spot(self, s: Spot) -> str:
        """La maestra escondió con cuidado una llave vieja debajo de la cama."""
        verb = f"{self.word('spots', s.verb)} {self.word('adverbs', s.adverb)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self.word("landmarks", s.landmark))

    def possession(self, s: Possession) -> str:
        """En la biblioteca el bolso viejo de la maestra estaba debajo de la mesa."""
        thing = self.thing(Thing(s.thing.noun, s.thing.adjective, 1, True))
        where = self.word("landmarks", s.landmark)
        return f"{self._at(s.place)} {thing} {self._person(s.owner, 'de')} estaba {where}"

    def want(self, s: Want) -> str:
        """La maestra quería comprar una llave vieja en el mercado."""
        verb = f"{'decidió' if s.decided else 'quería'} {self.word('verbs', s.verb, 1)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self._at(s.place))

    def tell(self, s: Tell) -> str:
        """Por la noche la maestra le dijo al panadero que el castillo estaba vacío."""
        clause = f"{self._opening(s.time, s.subject)} le dijo {self._person(s.listener, 'a')} que"
        feminine = self.word("places", s.place, 1) == "f"
        return f"{clause} {self._place(s.place)} {self.word('states', s.state, int(feminine))}"

    def not_go(self, s: NotGo) -> str:
        """El lunes la maestra no fue al mercado porque llovía."""
        clause = f"{self._opening(s.time, s.subject)} no fue {self._to(s.place)}"
        return f"{clause} porque {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """La maestra bailó con el panadero en el parque durante tres horas."""
        duration = f"durante {self.word('numbers', s.number)} {self.word('units', s.unit)}"
        deed = f"{self.word('activities', s.activity)} {self._person(s.companion, 'con')}"
        return join(self._subject(s.subject), deed, self._at(s.place), duration)

    def purpose(self, s: Purpose) -> str:
        """La maestra corrió al mercado para comprar una llave vieja."""
        clause = join(self._subject(s.subject), self.word("motions", s.motion), self._to(s.place))
        return f"{clause} para {self.word('verbs', s.verb, 1)} {self.thing(s.thing)}"

    def meet(self, s: Meet) -> str:
        """Ayer la maestra se encontró con el panadero en el puente."""
        verb, preposition = self.lexicon["meetings"][s.verb]
        deed = f"{verb} {self._person(s.person, preposition)} {self._at(s.place)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def although(self, s: Although) -> str:
        """La maestra tenía hambre, pero vendió dos pasteles redondos en el mercado."""
        deed = f"{self.word('verbs', s.verb)} {self.thing(s.thing)} {self._at(s.place)}"
        return f"{self._feeling(s.subject, s.feeling)}, pero {deed}"
