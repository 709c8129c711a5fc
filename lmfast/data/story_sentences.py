"""Sentences that all plots of the built-in corpus share: openings, scenery, what one does with things, talk, endings.

Out: SENTENCES, a block of rules (see story_grammar). Variables: hero (a child), pal (another), kin (one of the
hero's elders), treasure and hue (a thing and its color), site (a place).
"""

SENTENCES = """
open:
-4 Once upon a time, there was {a trait} {child:hero.intro} who loved {hobby}.
-3 Once there was {a trait_one} and {trait_two} {child:hero.intro}.
-2 There once was {a trait} {child:hero.intro} with {a look} {color} {clothing}.
-3 {child:hero} was {a trait} {hero.kid} who liked {topic_one} and {topic_two}.
-2 {child:hero} loved {hobby_one}, {hobby_two} and stories about {topic}.
-2 {child:hero} lived in {a size} {color} {home} near {a place_look} {place}.
-2 In {a place_look} {place}, there lived {a trait} {child:hero.intro}.
-2 Not far from {a place_look} {place} lived {a trait} {child:hero.intro}.
-1 Everyone in the village knew {child:hero}, {a trait_one} and {trait_two} {hero.kid} who loved {hobby}.
-1 Long ago, in {a color} {home} by the {place}, there lived {a trait} {child:hero.intro}.

day:
-4 One {weather} {daypart}, {hero} {went} to the {place_look} {place:site}.
-2 On {a weather} {daypart} in {season}, {hero} {went} to the {place:site}.
-2 It was {a weather} {daypart} in {season}, and {hero} {went} {how} to the {place:site}.
-2 One {daypart}, {hero} put on {hero.his} {color} {clothing} and {went} to the {place:site}.
-1 Early one {daypart}, {hero} packed some {treats} and {went} to the {place_look} {place:site}.

scene:
-3 The {plants} {plant_did} in the {wind} wind, and {creatures} {creature_did} in the {ground}.
-2 {A size} {color} {animal} sat near the {spot} and {creature_did}.
-2 The air smelled of {smell_one} and {smell_two}.
-2 The {plants_one} {plant_did}, and the {plants_two} {plant_did} too.
-2 {Number} {creatures} {creature_did} {how} above the {spot}.
-2 The sky was {color}, and {a animal} {creature_did} by the {spot}.
-1 {A wind} wind smelled of {smell}, and the {creatures} {creature_did}.
-1 Somewhere {a color} {animal} {creature_did}, and the {plants} {plant_did}.

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
-3 wore it
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
-1 filled the day with it
-1 cleaned it {how}
-1 pretended to be {a worker} with it
use_book:
-3 read it
-2 opened it
-2 turned its pages {how}
-1 learned about {topic} from it
-1 carried it to the {place}
-1 read it to {a animal}
-1 looked for {topic} in it
use_instrument:
-3 played it
-2 practiced on it
-2 made music with it
-1 played it {how}
-1 played it for {a animal}
-1 made up songs about {topic} on it
-1 took it to the {place}

hero_says:
-4 {said} {hero}.
-2 {said} {hero} {how}.
-2 {hero.he} {said}.
-2 {hero} {said}, and {hero.he} {gesture}.
hero_answers:
-3 {replied} {hero}.
-2 {replied} {hero} {how}.
-2 {hero.he} {replied}.
-1 {hero} {replied} and {gesture}.
pal_says:
-4 {said} {pal}.
-2 {said} {pal} {how}.
-2 {pal} {said}, and {pal.he} {gesture}.
pal_answers:
-3 {replied} {pal}.
-2 {replied} {pal} {how}.
-1 {pal} {replied} and {gesture}.
kin_says:
-4 {said} {hero.his} {kin}.
-2 {replied} {hero.his} {kin} {how}.
-2 {hero.his} {kin} {said}, and {kin.he} {gesture}.

meet_pal:
-3 There {hero} met {a trait} {friend:pal.intro}, who loved {hobby}.
-2 {Hero.his} friend {friend:pal} came along with {a size} {color} {pet}.
-2 {friend:pal}, {a trait_one} and {trait_two} {pal.kid} from the {place}, was there too.
-2 Soon {a trait} {friend:pal.intro} {went} by, wearing {a color} {clothing}.

glad_end:
-3 {hero} felt {glad} and {warm}.
-3 {hero} was {glad}, and {hero.he} {gesture} all the way home.
-2 That night, {hero} dreamed of {topic_one} and {topic_two}.
-2 {hero} had never felt so {glad} or so {warm}.
-2 That {daypart}, {hero} fell asleep feeling {warm} and {glad}.
-1 Even the {plants} {plant_did} as if they were {glad}.
-1 {hero} told the whole story to {a animal}, who {gesture} {how}.

pair_end:
-3 {hero} and {pal} felt {glad} and {warm}.
-3 From that day on, {hero} and {pal} went {hobby} together.
-2 {hero} and {pal} {together_one} and {together_two} until the {color} sun went down.
-2 Then the two friends shared {a food} and {together}.
-2 {hero} hugged {pal}, and they {together} under the {color} sky.
-1 Every {daypart} after that, {hero} and {pal} played {game} at the {place}.
-1 {pal} gave {hero} {a color} {keepsake}, and both of them {together}.

kin_end:
-3 {Hero.his} {kin} hugged {hero.him}, and {hero} felt {glad} and {warm}.
-2 Then {hero} and {hero.his} {kin} shared {a food} and some {drink}.
-2 {Hero.his} {kin} was {glad} too, and they {together} in the {room}.
-2 That night, {hero.his} {kin} read {hero.him} a story about {topic_one} and {topic_two}.
-1 {hero} and {hero.his} {kin} {together} until {a color} moon rose over the {place}.
"""
