"""Plots of the built-in corpus between a child and one of its elders: lost, fear, make, rain, promise, seed, learn, trade.

Out: FAMILY_PLOTS, a block of rules (see story_grammar). Variables, beyond those of story_sentences: made (something
to make), scare (a fear), feat (a skill), job (a chore), ship (what one pretends), crop (a seed), helper and buyer
(workers), got and last (what the swaps bring).
"""

FAMILY_PLOTS = """
lost_start:
-3 {Hero.his} {elder:kin} had given {hero.him} {a_thing}. Every {daypart}, {hero} {treasure>use}. {lost_gone}
-2 {Hero.he} had {a_thing} from {hero.his} {elder:kin}, and {hero.he} {treasure>use} whenever {hero.he} felt {glad}.
  {lost_gone}
-2 Of all {hero.his} things, {hero} loved {a_thing} best, a present from {hero.his} {elder:kin}. {lost_gone}
-1 For {hero.his} birthday, {hero} got {a_thing} from {hero.his} {elder:kin}. {Hero.he} {treasure>use} and felt
  {glad}. {lost_gone}
lost_gone:
-3 One {weather} {daypart}, the {hue} {treasure} was gone! {Hero.he} felt {sad} and {heavy}.
-2 But one {weather} {daypart}, {hero.he} could not find the {hue} {treasure}, and {hero.he} was {sad}.
-2 Then, on {a weather} {daypart} in {season}, the {treasure} was not in the {room}. {Hero.he} was {sad} and {heavy}.
-1 But when {hero.he} came home from the {place}, there was no {hue} {treasure}. "I am so {sad}," {hero_sighs}
lost_search:
-3 {Hero.he} looked under the {under}, behind the {behind} and inside the {inside}. {aside}
-2 {Hero.he} searched the {room} first. Behind the {behind} there was only {a size} {color} {keepsake}. {aside}
-2 {Hero.he} {went} to the {place_look} {place} and looked near the {spot}, but found only {a look} {tool}. {aside}
-1 First {hero.he} emptied the {look} {inside}. There were {treats} and {a color} {toy}, but no {treasure}.
-1 "Have you seen my {hue} {treasure}?" {hero.he} {asked}. The {worker} had not, but gave {hero.him} {a food}.
lost_help:
-3 "Do not be {sad}," {kin_says} "{lost_advice}"
-2 {Hero.his} {kin} saw that {hero} was {heavy}. "{lost_advice}" {kin_says}
-2 Then {a trait} {animal} {went} by, and {hero} had an idea. "{lost_advice}" {hero_says}
-1 "{exclamation}! We can look together," {kin_says} So they {went} {how} to the {place}.
lost_advice:
-3 Let us look near the {spot_look} {spot}!
-2 Let us ask the {worker} at the {place}!
-2 When did you last see the {hue} {treasure}?
-2 Think {how}, and you will remember!
-1 Lost things like to hide behind {a look} {behind}!
lost_end:
-3 At last, {hero} looked under the {look} {under}. There was the {hue} {treasure}! {lost_joy}
-2 Just then, {a size} {animal} came out from behind the {behind} with the {hue} {treasure}. {lost_joy}
-2 Near the {spot}, {a look} {clothing} lay in the {ground}. Under it was the {hue} {treasure}! {lost_joy}
-2 {A trait} {worker} came {how} down the road. "Is this {hue} {treasure} yours?" {hero} {gesture}. {lost_joy}
-1 In the {ground} by the {spot_look} {spot} lay the {hue} {treasure}. {lost_joy}
lost_joy:
-3 "{exclamation}! My {treasure}!" {hero_cheers} {glad_end}
-3 {hero} {gesture} {how} and put the {treasure} in {a look} {inside}. {kin_end}
-2 "Now I will keep it in the {look} {inside}," {hero_answers} {kin_end}
-1 "Thank you," {hero_answers} {Hero.he} {treasure>use} until the {sky_color} sun went down. {glad_end}

fear_start:
-3 There was only one thing: {hero.he} was {afraid} of the {fear:scare}. {fear_why}
-2 But {hero.he} had a secret. The {fear:scare} made {hero.him} {scared} and {heavy}. {fear_why}
-2 Every {daypart}, {hero.he} felt {scared} because of the {fear:scare}. {fear_why}
-1 "I am not {afraid} of {topic}," {hero_says} "But I am {afraid} of the {fear:scare}." {fear_why}
fear_why:
-2 {Hero.he} thought of {topic} with {number} {look} teeth.
-2 Just to think of it, {hero.he} hid under the {look} {under}.
-2 Once, {hero.he} had heard {a sound} there, and then {a size} {sound}.
-1 It seemed {a size} and {weather} place to {hero.him}.
fear_tries:
-3 {fear_day} {Hero.he} {went} as far as the {spot_look} {spot}, but then {hero.he} {went} back. {aside}
-2 {fear_day} {Hero.he} hid behind the {behind} with {a look} {toy}. {aside}
-2 {fear_day} "I feel {heavy}," {hero_sighs} {aside}
-1 {fear_day} {Hero.he} put on {a look} {color} {clothing} to be brave, but it did not help.
fear_day:
-3 One {weather} {daypart}, {a trait} {worker} {went} up to the {scare}.
-2 One {daypart} in {season}, {hero.his} {trait} friends {went} right up to the {scare}.
-2 Then came {a weather} {daypart}, and nobody else was {afraid} of the {scare}.
fear_turn:
-3 {Hero.his} {elder:kin} took {hero.his} hand {how}. "{fear_advice}," {kin_says}
-2 "Once I was {scared} too," said {hero.his} {elder:kin} {how}. "{fear_advice}."
-2 {Hero.his} {elder:kin} gave {hero.him} {a look} {color} {keepsake}. "{fear_advice}," {kin_says}
-1 "Tell me about it," said {hero.his} {elder:kin} {how}. "{fear_advice}."
fear_advice:
-3 Think of {topic} and count to {number}
-2 Sing a song about {topic_one} and {topic_two}
-2 Take {number} {size} steps, and I will be here
-2 {Praise} people are {scared} too, but they go on {how}
-1 Pretend that you are {a trait} {worker}
fear_end:
-3 {Hero.he} held on {how} and took {number} {size} steps. The {scare} was not so bad! {fear_last}
-2 {Hero.he} thought of {topic} and {went} on {how}. Soon {hero.he} {gesture}. {fear_last}
-2 So {hero.he} counted to {number}, and {hero.his} heart grew {warm_one} and {warm_two}. {fear_last}
-1 Step by step, {hero.he} came nearer. There was only {a size} {color} {animal}! {fear_last}
fear_last:
-3 "{exclamation}! I did it!" {hero_cheers} {kin_end}
-2 "I am not {afraid} any more," {hero_says} {glad_end}
-2 The {scare} never made {hero.him} {scared} again. {kin_end}
-1 "You were so {praise}," {kin_cheers} {glad_end}

make_start:
-3 One {weather} {daypart}, {hero} wanted to make {a craft:made} for {hero.his} {elder:kin}. {make_why}
-2 {Hero.his} {elder:kin} looked {sad}, so {hero} decided to make {kin.him} {a opinion} {craft:made}. {make_why}
-2 It was {a weather} {daypart} in {season}. "I will make {a craft:made} for my {elder:kin}," {hero_says} {make_why}
-1 {hero} saw {a opinion} {craft:made} at the {place} and wanted one for {hero.his} {elder:kin}. {make_why}
make_why:
-3 It had to be {look} and {color}.
-2 {Hero.his} {kin} had always liked {topic_one} and {topic_two}.
-2 {Hero.he} felt {warm} and {glad} just to think of it.
-1 {Hero.his} {kin} would have a birthday in {number} days.
make_work:
-3 {Hero.he} took {material_one} and {material_two} from the {look} {inside}. {Hero.he} worked {how} in the {room}. {aside}
-2 In the {room}, {hero.he} found {number} {color} {decoration} and some {material}. {Hero.he} worked {how_one} and
  {how_two}.
-2 {Hero.he} asked {a trait} {worker} for {material_one}, {material_two} and {a look} {tool}. {aside}
-1 First {hero.he} drew it on {color} paper. Then {hero.he} got some {material_one} and some {material_two}. {aside}
make_fail:
-3 But the {made} came out too {look}, and it fell apart. {Hero.he} felt {sad} and {heavy}. {make_hope}
-2 Then {a size} {pet} {went} by, and the {made} fell to the floor! {Hero.he} was {sad} and {heavy}. {make_hope}
-2 But the {material} would not hold, and the {made} looked {look}. "It is {awful}," {hero_sighs} {make_hope}
-1 At first the {made} looked like {a look} {tool}. {Hero.he} felt {sad}. {make_hope}
awful:
-3 awful
-2 terrible
-2 no good
-1 all wrong
make_hope:
-3 {Hero.he} tried again {how}, with {color} {material_one} and {look} {material_two}.
-2 {Hero.he} ate {a food} and began again with {material} and {decoration}.
-2 "Try {a size} bit of {material}," {advised} the {worker}, and that worked.
-1 {A trait} {worker} came to help with {number} {decoration}, and soon it was done.
make_end:
-3 At last the {made} was done. It was {color_one} and {color_two}, with {number} {look} {decoration} on top. {make_gift}
-2 Before {weekday}, there was {a opinion} {look} {made} on the table. {make_gift}
-2 Now the {made} looked {opinion}. {hero} put some {color} {decoration} on it and {gesture}. {make_gift}
make_gift:
-3 "{exclamation}! It is {opinion}," {kin_cheers} {kin_end}
-2 "I made it {how} for you," {hero_answers} {kin_end}
-2 {Hero.his} {kin} {gesture} {how} and put the {made} near {a look} {color} {tool}. {kin_end}
-1 "Nobody ever gave me such {a opinion} {made}," {kin_says} {glad_end}

rain_start:
-3 One {daypart}, rain fell on the {place}, and {hero} could not go out. {rain_bored}
-2 It was a rainy {daypart} in {season}. The {spot} was wet, and so were the {bird}. {rain_bored}
-2 "Rain, rain, rain," {hero_sighs} The {plants} were wet, and {critter} {critter_did} in the {ground}. {rain_bored}
rain_bored:
-2 {Hero.he} felt {sad} and {heavy}.
-2 {Hero.he} had read {a look} {book} and played with {hero.his} {color} {toy}.
-2 {Hero.he} looked out of the window and counted {number} {bird}.
-1 There would be no {hobby} and no {game} today.
rain_idea:
-3 Then {hero.his} {elder:kin} came with {number} {color} {furnishing}. "Let us build {a pretend:ship}," {kin_says}
-2 "{exclamation}! This {room} could be {a pretend:ship}," said {hero.his} {elder:kin} {how}.
-2 {Hero.his} {elder:kin} looked at the {furnishing_one} and the {furnishing_two}. "I see {a pretend:ship}," {kin_says}
rain_play:
-3 They piled up {furnishing_one} and {furnishing_two} in the {room}. {A look} {tool} was the door. {rain_trip}
-2 Soon there was {a opinion} {ship} behind the {behind}, made of {color} {furnishing}. {rain_trip}
-2 {hero} was {a worker} in {a color} {clothing}, and {hero.his} {kin} was {a trait} {animal}. {rain_trip}
rain_trip:
-3 The {ship} took them to {a place_look} {place}, where {topic} {gesture}.
-2 In the {ship}, they met {topic_one} and {topic_two} and ate {treats}.
-2 The {ship} was full of {treats}, and {hero.he} even found {a look} {color} {keepsake}.
-1 "{exclamation}! I see {topic_one} and {topic_two}," {hero_cheers}
rain_end:
-3 When the rain stopped, the {plants} {plant_did} and {bird} {bird_did} {how}. {kin_end}
-2 Then the sun came out, and the {plants} {plant_did}. "Can we stay in the {ship}?" {asked} {hero}. {kin_end}
-2 "I like rainy {season} days now," {hero_says} {kin_end}
-1 {A opinion} rainbow stood over the {place_look} {place}. {glad_end}

promise_start:
-3 "Will you {chore:job}?" {asked} {hero.his} {elder:kin} one {weather} {daypart}. "I promise," {hero_answers}
-2 One {weather} {daypart}, {hero} promised {hero.his} {elder:kin} to {chore:job}.
-2 "I have to go to the {place}," said {hero.his} {elder:kin}. "Please {chore:job}." {hero} promised {how}.
promise_broken:
-3 But then {friend:pal} came with {a_thing} and {number} {treats}, and they played {game}. {promise_bad}
-2 But {hero.he} {went} to the {place} to see {a size} {color} {animal} and {a trait} {worker}. {promise_bad}
-2 But {a opinion} {book} about {topic_one} lay on the {look} {under}, and {hero.he} {how} {promise_read}. {promise_bad}
promise_read:
-1 read about {topic_two} and {a animal}
-1 looked at every {color} picture
promise_bad:
-3 When {hero.his} {kin} came home, {kin.he} was {sad} and {heavy}. "You did not {job}," {kin_sighs}
-2 That evening, {hero.his} {kin} looked {sad} and {heavy}. "I trusted you," {kin_sighs}
-2 "Did you {job}?" {asked} {hero.his} {kin}. {hero} hid {a look} {toy} and felt {scared}.
promise_sorry:
-3 {hero} felt {sorry}. "I am {sorry}. I forgot," {hero_sighs} {promise_forgive}
-2 {hero} felt {sorry} and hid behind the {behind}. Then {hero.he} came out {how}. "It was my fault," {hero_sighs}
  {promise_forgive}
-2 First {hero} wanted to blame {a size} {animal}. But {hero.he} was too {trait} for that. "I forgot," {hero_sighs}
  {promise_forgive}
promise_forgive:
-2 "Thank you for the truth," {kin_says}
-2 "Everyone forgets sometimes, even {a trait} {worker}," {kin_says}
-1 {Hero.his} {kin} {gesture} {how}.
-1 "A promise is like {a look} {keepsake}," {kin_says}
promise_mended:
-3 The next {weather} {daypart}, {hero.he} {how} got up early to {job}. {promise_done}
-2 Right away, {hero.he} put on {a look} {clothing} and {went} to {job}. {promise_done}
-2 {Hero.he} tied {a look} {color} string around {hero.his} finger and {how} {went} to {job}. {promise_done}
promise_done:
-2 {Hero.he} also gave {hero.his} {kin} {a opinion} {craft} made of {material_one} and {material_two}. {kin_end}
-2 "{exclamation}! You kept your promise," {kin_cheers} {kin_end}
-2 {A trait} {worker} helped {how}, and {hero} felt {glad} and {warm}. {kin_end}
-1 {A size} {animal} {animal_did} {how}. {kin_end}

seed_start:
-3 One {daypart} in {season}, {a trait} {worker} gave {hero.him} {number} {seed:crop} seeds. {seed_plant}
-2 {Hero.he} found {a size} {color} bag of {seed:crop} seeds in the {room}. {seed_plant}
-2 "What is in the {color} bag?" {hero.he} {asked}. "They are {seed:crop} seeds," {advised} the {worker}. {seed_plant}
seed_plant:
-3 {Hero.he} dug {number} {size} holes near the {spot} and planted them {how}.
-2 {Hero.he} planted them in {a look} {color} pot by the {behind}.
-1 {Hero.he} put them in the earth by the {plants} and sang about {topic}.
seed_wait:
-3 Every {daypart}, {hero.he} looked, but there was only {ground}. {Hero.he} felt {sad} and {heavy}. {seed_help}
-2 {Hero.he} waited {number} days, but no {crop} came up. "They are gone," {hero_sighs} {seed_help}
-2 {A weather} week went by. {A size} {animal} dug up the bed, and {hero.he} was {sad}. {seed_help}
seed_help:
-3 "Be {praise}," said {hero.his} {elder:kin} {how}. "Good things are slow."
-2 {Hero.his} {elder:kin} brought {a look} {tool}. "Seeds need {weather} days and songs about {topic}," {kin_says}
-1 "Let us build {a look} scarecrow with {a color} {clothing}," said {hero.his} {elder:kin}.
seed_grow:
-3 Then, one {weather} {daypart}, there was {a size} green leaf! {seed_joy} {aside}
-2 After {a weather} night, {hero.he} saw {number} green leaves in the {ground}. {seed_joy} {aside}
-2 In {season}, something {color} peeped out of the earth. {seed_joy} {aside}
seed_joy:
-3 "{exclamation}! My {crop}!" {hero_cheers}
-2 {Hero.he} {gesture} and {went} {how} through the {ground} to tell {hero.his} {kin}.
-1 Soon {bug} {bug_did} around it, and the {plants} {plant_did}.
seed_end:
-3 That {season}, {hero.he} had {a size} {crop} patch. {Hero.he} shared it with {a trait} {worker} and {a animal}. {kin_end}
-2 {Hero.his} {kin} served {a food} under the {crop} leaves, and the {room} smelled of {smell}. {kin_end}
-2 "I waited {how}," {hero_says} "You were {praise_one} and {praise_two}," {kin_says} {glad_end}

learn_start:
-3 More than anything, {hero} wanted to {skill:feat}. {learn_who}
-2 "I want to {skill:feat}," {hero_says} {learn_who}
-2 At the {place_look} {place}, {hero} saw {a worker} {skill:feat}, and {hero.he} wanted to learn it. {learn_who}
learn_who:
-3 {Hero.his} {trait} {elder:kin} could do it {how}. "I will teach you," {kin_says}
-2 {Hero.his} {elder:kin} had learned it long ago at {a place_look} {place}.
-2 "It takes {number} {weather} days," said {hero.his} {elder:kin} {how}.
learn_fail:
-3 One {weather} {daypart}, {hero.he} tried for the first time and fell down in the {ground}. {learn_sad} {aside}
-2 {Hero.he} tried {number} times by the {spot_look} {spot}, but it did not work. {learn_sad} {aside}
-2 On {weekday}, {hero.he} tried in the {room}, and {a look} {color} {tool} fell down. {learn_sad}
learn_sad:
-2 "I will never {feat}," {hero_sighs} {Hero.he} felt {sad}.
-2 {A size} {animal} {animal_did}, and {hero.he} was {sad} and {heavy}.
-1 {Hero.he} threw {hero.his} {color} {clothing} away and felt {sad} and {heavy}.
learn_again:
-3 "Even {a trait} {worker} falls {number} times," {kin_says} "Try again {how}." {learn_try}
-2 {Hero.his} {kin} gave {hero.him} {a food} and some {drink}. "Rest, and then try again," {kin_says} {learn_try}
-2 {Hero.his} {kin} {gesture}. "Do it {how_one} and {how_two}," {kin_says} {learn_try}
learn_try:
-3 So {hero.he} practiced {how} every {daypart} by the {spot_look} {spot}.
-2 {Hero.he} tried again in {season}, with {a look} {color} {clothing} for luck.
-1 {Hero.he} thought of {topic_one} and {topic_two} and tried once more.
learn_end:
-3 Then, one {weather} {daypart}, it worked! "{exclamation}! I can {feat}!" {hero_cheers} {kin_end}
-2 And at last, near the {spot}, {hero.he} could {feat}. {A trait} {worker} {gesture}. {kin_end}
-2 After {number} {weather} days, {hero.he} could {feat} {how}. {kin_end}
-1 "Look at me!" {hero_cheers} {Number} {bird} {bird_did} {how}. {glad_end}

trade_start:
-3 {day} {Hero.he} wanted a present for {hero.his} {elder:kin}, but {hero.he} had only {a_thing}.
-2 In {number} days it would be {hero.his} {elder:kin}'s birthday, and all {hero} had was {a_thing}.
-2 {Hero.he} carried {a_thing} to the {place}, for {hero.he} wanted to swap it for a gift for {hero.his} {elder:kin}.
trade_first:
-3 There {hero.he} met {a trait} {worker:helper}. "What {a opinion} {treasure}," {said} the {helper}. {trade_swap}
-2 By the {spot} stood {a worker:helper} who was {sad}. "I need {a treasure}," {sighed} the {helper}. {trade_swap}
-2 {A worker:helper} looked {how} at the {hue} {treasure} and {gesture}. {trade_swap}
trade_swap:
-3 So the {helper} got the {treasure}, and {hero.he} got {a look} {color} {tool:got}. {aside}
-2 {Hero.he} gave the {helper} the {hue} {treasure} for {a size} {look} {tool:got}. {aside}
trade_next:
-3 Next, {a trait} {worker:buyer} wanted the {got}. "Take my {color} {keepsake:last} for it," {said} the {buyer}.
-2 Then {hero} met {a worker:buyer} with {a look} {keepsake:last}, who asked {how} for the {got}. So they swapped.
-2 After that, {a worker:buyer} looked at the {got} and {gesture}. {hero} swapped it for {a opinion} {keepsake:last}.
trade_end:
-3 When {hero} came home, {hero.he} {how} gave the {last} to {hero.his} {kin}. "{exclamation}! It is {opinion}," {kin_cheers}
  {kin_end}
-2 "This {opinion} {last} is for you," {hero_says} {Hero.his} {kin} {gesture} {how}. {kin_end}
-2 {Hero.his} {kin} put the {last} in {a look} {inside} and {gesture}. {kin_end}
"""
