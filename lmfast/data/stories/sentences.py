"""What a story is, and the sentences that all plots of the built-in corpus share: openings, scenery, talk, endings.

Out: SENTENCES, a block of rules (see story_grammar); `story` is a whole story. Variables: hero (a child), pal
(another), kin (one of the hero's elders), treasure and hue (a thing and its color), site (a place).
"""

SENTENCES = """
story:
-4 {open} {detail} {scene} {plot}
-3 {open} {detail} {scene} {aside} {plot}
-1 {open} {detail} {plot}
-1 {open} {scene} {plot}

plot:
-10 {lost_start}|{lost_search} {lost_help}|{lost_end}
-9 {fear_start} {fear_tries}|{fear_turn} {fear_end}
-9 {make_start} {make_work}|{make_fail} {make_end}
-8 {rain_start} {rain_idea}|{rain_play} {rain_end}
-9 {promise_start} {promise_broken}|{promise_sorry} {promise_mended}
-7 {seed_start} {seed_wait}|{seed_grow} {seed_end}
-8 {learn_start} {learn_fail}|{learn_again} {learn_end}
-7 {trade_start} {trade_first}|{trade_next} {trade_end}
-8 {share_start} {share_want}|{share_turn} {pair_end}
-8 {animal_start} {animal_help}|{animal_care} {animal_end}
-8 {party_start} {party_work}|{party_day} {party_end}
-8 {race_start} {race_run}|{race_turn} {race_end}
-8 {new_start} {new_shy}|{new_talk} {pair_end}
-7 {sound_start} {sound_look}|{sound_found} {sound_end}

open:
-4 Once upon a time, there was {a trait} {child:hero.intro} who loved {hobby}.
-3 Once there was {a trait_one} and {trait_two} {child:hero.intro}.
-2 There once was {a trait} {child:hero.intro} with {a look} {color} {clothing}.
-3 {child:hero} was {a trait} {hero.kid} who liked {topic_one} and {topic_two}.
-2 {child:hero} loved {hobby_one}, {hobby_two} and stories about {topic}.
-2 {child:hero} lived in {a size} {color} {home} near {a place_look} {place}.
-2 Not far from {a place_look} {place} lived {a trait} {child:hero.intro}.
-1 Everyone in the village knew {child:hero}, {a trait_one} and {trait_two} {hero.kid} who loved {hobby}.
-1 Long ago, in {a color} {home} by the {place}, there lived {a trait} {child:hero.intro}.

detail:
-3 {Hero.he} had {a size} {color} {pet} called {pet_name} and {a look} {toy}.
-3 {Hero.he} wore {a look} {color} {clothing} and ate {a food} every {daypart}.
-2 {Hero.he} knew {number} songs about {topic_one} and {number} about {topic_two}.
-2 {Hero.his} best days were {weather} {season} days with {treats} and {drink}.
-2 {Hero.he} often played {game} with {a trait} {animal} near the {spot}.
-1 {Hero.his} room was full of {decoration}, and {a look} {color} {tool} hung on the wall.

day:
-4 One {weather} {daypart}, {hero} {went} to the {place_look} {place:site}.
-2 On {a weather} {daypart} in {season}, {hero} {went} to the {place:site}.
-2 It was {a weather} {daypart} in {season}, and {hero} {went} {how} to the {place:site}.
-2 One {daypart}, {hero} put on {hero.his} {color} {clothing} and {went} to the {place:site}.
-1 Early one {daypart}, {hero} packed some {treats} and {went} to the {place_look} {place:site}.

scene:
-3 The {plants} {plant_did} in the {wind} wind, and {critter} {critter_did} in the {ground}.
-2 {A size} {color} {animal} sat near the {spot} and {animal_did}.
-2 The air smelled of {smell_one} and {smell_two}.
-2 The {plants_one} {plant_did}, and the {plants_two} {plant_did} too.
-2 {Number} {bird} {bird_did} {how} above the {spot}.
-2 The sky was {sky_color}, and {bug} {bug_did} around the {plants}.
-1 {A wind} wind smelled of {smell}, and the {bird} {bird_did}.
-1 Somewhere {a color} {animal} {animal_did}, and the {plants} {plant_did}.

aside:
-3 Nearby, {a trait} {worker} sold {treats_one} and {treats_two}.
-2 {A size} {animal_one} and {a color} {animal_two} {animal_did} {how}.
-2 {A trait} {worker} {went} by with {a look} {tool} and {number} {treats}.
-2 Down the road, {number} {critter} {critter_did}, and {bird} {bird_did}.
-2 The {weather} air smelled of {smell}, and {bug} {bug_did} {how}.
-1 Some children played {game}, and {a size} {animal} {animal_did}.

a_thing:
-4 {a look} {color:hue} {thing:treasure}
-3 {a size} {color:hue} {thing:treasure}
-3 {a opinion} {color:hue} {thing:treasure}
-2 {a color:hue} {thing:treasure}
-1 {a opinion} {look} {color:hue} {thing:treasure}

use_toy:
-3 played with it
-2 hugged it
-2 raced around with it
-1 talked to it
-1 showed it to {a animal}
-1 made up stories about it and {topic}
-1 took it to the {place}
use_keepsake:
-3 looked at it
-2 held it up to the light
-2 polished it
-1 hid it under the {under}
-1 wished on it
-1 showed it to {a animal}
-1 dreamed about {topic} with it
use_clothing:
-3 wore it proudly
-2 put it on
-2 danced around in it
-1 wore it to the {place}
-1 dressed up in it like {a worker}
-1 tried it on by the mirror
-1 let {a animal} try it on
use_tool:
-3 used it
-2 carried it everywhere
-2 found a new use for it
-1 took it to the {place}
-1 cleaned it {how}
-1 pretended to be {a worker} with it
use_book:
-3 opened it
-2 turned its pages {how}
-1 read it aloud
-1 learned about {topic} from it
-1 carried it to the {place}
-1 read it to {a animal}
-1 looked for {topic} in it
use_instrument:
-3 practiced on it
-2 made music with it
-1 played it {how}
-1 played it for {a animal}
-1 made up songs about {topic} on it
-1 took it to the {place}

hero_says:
-3 {said} {hero}.
-2 {said} {hero} {how}.
-3 {hero.he} {said}.
-2 {hero.he} {gesture} and {said}.
hero_cheers:
-3 {cheered} {hero}.
-3 {hero.he} {cheered}.
-1 {cheered} {hero}, and {hero.he} {gesture} {how}.
hero_sighs:
-3 {sighed} {hero}.
-2 {sighed} {hero} {sadly}.
-3 {hero.he} {sighed}.
hero_answers:
-3 {replied} {hero}.
-2 {replied} {hero} {how}.
-3 {hero.he} {replied}.
-1 {hero.he} {replied} and {gesture}.
pal_says:
-4 {said} {pal}.
-2 {said} {pal} {how}.
-2 {pal} {said}, and {pal.he} {gesture}.
pal_sighs:
-4 {sighed} {pal}.
-2 {sighed} {pal} {sadly}.
-1 {pal} {sighed}.
pal_answers:
-3 {replied} {pal}.
-2 {replied} {pal} {how}.
-1 {pal} {replied} and {gesture}.
kin_sighs:
-3 {sighed} {hero.his} {kin}.
-2 {sighed} {hero.his} {kin} {sadly}.
kin_cheers:
-3 {cheered} {hero.his} {kin}.
-2 {cheered} {hero.his} {kin}, and {kin.he} {gesture} {how}.
kin_says:
-4 {advised} {hero.his} {kin}.
-2 {advised} {hero.his} {kin} {how}.
-2 {hero.his} {kin} {advised}, and {kin.he} {gesture}.

meet_pal:
-3 Then {hero} met {a trait} {friend:pal.intro}, who loved {hobby}.
-2 {Hero.his} friend {friend:pal} came along with {a size} {color} {pet}.
-2 {friend:pal}, {a trait_one} and {trait_two} {pal.kid} from the {place}, came along.
-2 Soon {a trait} {friend:pal.intro} {went} by, wearing {a color} {clothing}.

glad_end:
-3 {hero} felt {glad} and {warm}.
-3 {hero} was {glad} and {warm}, and {hero.he} {gesture} {how} all the way home.
-2 That night, {hero} dreamed {how} of {topic_one}, {topic_two} and {a color} {animal}.
-2 {hero} had never felt so {glad} or so {warm}, and {bug} {bug_did} in the {plants}.
-2 That night, {hero} fell asleep under {a look} {color} blanket, feeling {warm} and {glad}.
-1 Even the {plants} {plant_did} as if they were {glad}.
-1 {hero} told the whole story to {a trait} {animal}, who {animal_did} {how}.

pair_end:
-3 {hero} and {pal} felt {glad} and {warm}, and the {bird} {bird_did} {how}.
-3 From then on, {hero} and {pal} loved {hobby_one} and {hobby_two}, and {how} shared {treats}.
-2 They {together_one} and {together_two} {how} until {a sky_color} moon rose over the {place_look} {place}.
-2 Then the two friends shared {a food}, {number} {treats} and some {drink}, and {together}.
-2 {hero} hugged {pal} {how}, and they {together} in the {weather} air.
-1 Every {daypart} after that, {hero} and {pal} played {game} at the {place}.
-1 {pal} gave {hero} {a look} {color} {keepsake}, and both of them {together}.

kin_end:
-3 {Hero.his} {kin} hugged {hero.him} {how}, and {hero} felt {glad} and {warm}.
-2 Then they shared {a size} {food}, {number} {treats} and some {drink}, and {together}.
-2 {Hero.his} {kin} was {glad} too, and they {together_one} and {together_two} in the {room}.
-2 That night, {hero.his} {kin} {how} read {a opinion} story about {topic_one}, {topic_two} and {a color} {animal}.
-1 They {together_one} and {together_two} until {a sky_color} moon rose over the {place_look} {place}.
"""
