"""Plots of the built-in corpus between a child and somebody new or dear: share, animal, party, race, new, sound.

Out: FRIEND_PLOTS, a block of rules (see story_grammar). Variables, beyond those of story_sentences: dish (a food),
beast (an animal), feast (a party), contest and award, pet_kind and pet_called.
"""

FRIEND_PLOTS = """
share_start:
-3 {day} {Hero.he} had {a opinion} {food:dish} in {hero.his} {look} {inside}.
-2 {day} {A trait} {worker} gave {hero.him} {a opinion} {food:dish} and a cup of {drink}.
-2 One {weather} {daypart}, {hero.his} {elder} gave {hero.him} {a opinion} {food:dish} and {number} {treats}.
-1 {day} By the {spot_look} {spot}, {hero.he} sat down to eat {a size} {food:dish} and some {treats}.
share_want:
-3 {meet_pal} "I am hungry and {heavy}," {pal_sighs} "My {inside} is empty."
-2 {meet_pal} {pal} looked {heavy}. "I had {a food}, but {a size} {animal} ate it," {pal_sighs}
-2 Near the {spot_look} {spot} sat {a trait} {friend:pal.intro} with nothing to eat. {pal} looked {sad} and {heavy}.
-1 {meet_pal} "That is {a opinion} {dish}," {pal_says} {Pal.he} had only {number} {treats}.
share_turn:
-3 {hero} wanted the whole {dish}. Then {hero.he} thought of {a trait} {worker}, who always shared. {share_give}
-2 At first {hero} hid the {dish} behind the {behind}. But {hero.he} felt {sorry} and {heavy}. {share_give}
-2 {hero} looked at the {dish} {how_one} and at {pal} {how_two}. {aside} {share_give}
-2 "It is mine," {hero_says} But {pal}'s eyes were {sad}, and {hero} felt {sorry}. {share_give}
share_give:
-3 "{exclamation}! Half is for you," {hero_cheers} The {dish} tasted of {smell_one} and {smell_two}.
-3 {hero} broke the {dish} in two. "Thank you," {pal_answers} "Here are {number} {color} {treats} for you."
-2 So {hero} gave {pal} the bigger half. "You are {praise_one} and {praise_two}," {pal_answers}
-1 "Let us share the {dish} and some {drink}," {hero_says} {A size} {animal} got the crumbs.

animal_start:
-4 {day} Near the {spot_look} {spot}, {hero.he} heard {a sound}. {A size} {color} {animal:beast} had {trouble}.
-3 {day} Then {hero.he} saw {a size} {color} {animal:beast} in the {ground}. It had {trouble}.
-2 {day} There, behind {a look} {behind}, sat {a color} {animal:beast}. The poor thing had {trouble}.
-1 One {weather} {daypart}, {a size} {color} {animal:beast} lay by the door. It had {trouble}.
animal_help:
-3 "You poor {beast}," {hero_sighs} The {beast} looked {scared}. {aside}
-2 "{exclamation}! Do not be {scared}, little {beast}," {hero_says} The {beast} {animal_did}.
-2 The {beast} looked {sad} and {heavy}. {Hero.he} sat down {how} beside it. {aside}
-2 {Hero.he} was {sad} to see it. "Wait here, {trait} {beast}," {hero_says}
animal_care:
-3 {hero} {went} home and came back with {remedy} and some {treats}. {animal_better}
-2 {hero} called {hero.his} {elder:kin}. Together they {went} {how} to the {beast} with {remedy}. {animal_better}
-2 {Hero.he} put {hero.his} {look} {color} {clothing} around the {beast} and gave it {remedy}. {animal_better}
-2 "We need {remedy}," {said} {a trait} {worker}, and {hero} {went} {how} to get it. {animal_better}
animal_better:
-3 After {number} {weather} days, the {beast} was {healed} again.
-2 Very {how}, the {beast} stood up and {animal_did}.
-2 Soon the {beast} ate {number} {treats} and {animal_did} {how}.
-1 The {beast} slept in {a look} {inside}, and the next {daypart} it was {healed}.
animal_end:
-3 From then on, the {beast} waited for {hero} by the {spot}. They {together_one} and {together_two}. {glad_end}
-2 The next {weekday}, the {beast} brought {hero.him} {a look} {color} {keepsake}. {glad_end}
-2 "Goodbye, {trait} {beast}!" {hero_cheers} The {beast} {went} {how} back to the {place}. {glad_end}
-2 {hero} called the {beast} {pet_name}, and they played {game} in the {ground}. {glad_end}

party_start:
-3 {hero} had a secret. {Hero.he} was planning {a party:feast} for {hero.his} friend {friend:pal}. {party_hush}
-2 Soon it would be {friend:pal}'s birthday, and {hero} wanted to give {pal.him} {a party:feast}. {party_hush}
-2 One {weather} {daypart}, {hero} thought of a surprise for {friend:pal}: {a party:feast}! {party_hush}
party_hush:
-2 "Do not tell {pal} about the {feast}," {hero_says}
-2 Only {a trait} {worker} and {a trait} {animal} knew.
-2 {Hero.he} wrote the plan in {a size} {color} {book}.
-1 It would be at the {place_look} {place}, near the {spot}.
party_work:
-3 {hero} hung {color_one} {decoration_one} over the {under} and {color_two} {decoration_two} on the {behind}. {party_doubt}
-2 {hero} brought {number} {treats_one}, {a food} and some {treats_two}. The {room} smelled of {smell}. {party_doubt}
-2 {A trait} {worker} brought {number} {decoration_one} and {color} {decoration_two}. {party_doubt}
-1 {hero} filled {a look} {inside} with {treats} and {a color} jug with {drink}. {party_doubt}
party_doubt:
-3 Meanwhile, {pal} felt {sad} and {heavy}. "Nobody wants to play {game} with me," {pal_sighs}
-2 But {pal} sat alone by the {spot_look} {spot} and felt {sad} and {heavy}.
-2 "Why is {hero} so busy?" {asked} {pal} {sadly}. {Pal.he} was {sad}.
-1 {pal} saw the {decoration} and {asked} about them. "They are for {topic}!" {hero_answers}
party_day:
-3 Then {weekday} came. {hero} took {pal} to the {place_look} {place}. "Surprise!" everyone {cheered}. {party_gift}
-2 On {weekday}, {pal} opened the {look} door. There stood {hero}, {a worker} and {number} friends! {party_gift}
-2 At last it was time for the {feast}. {pal} came in {how}. "Surprise!" {hero_cheers} {party_gift}
party_gift:
-2 {pal} got {a_thing} and {gesture} {how}. {aside}
-2 There was {a food} for everyone, and {a look} {toy} for {pal}. {aside}
-1 {pal}'s face turned {sky_color}, and {pal.he} {gesture}.
-1 They played {game} and {together_one} and {together_two}.
party_end:
-3 "{exclamation}! You did all this for me?" {asked} {pal}. {pair_end}
-2 "I thought you forgot me," {pal_answers} "I could never forget you," {hero_answers} {pair_end}
-2 "What {a opinion} {feast}," {pal_says} {pair_end}

race_start:
-3 One {weather} {daypart}, there was {a race:contest} at the {place}. {hero} wanted to win the {prize:award}. {race_ready}
-2 In {season}, the town held {a opinion} {race:contest}. The winner would get {a opinion} {prize:award}. {race_ready}
-2 "I will win the {race:contest} and the {prize:award}," {hero_says} {race_ready}
race_ready:
-2 {Hero.he} practiced {how} every {weather} {daypart}.
-2 {Hero.he} put on {hero.his} {look} {color} {clothing} and ate {a food}.
-1 {Hero.he} felt {glad} and a little {scared}.
-1 {A trait} {worker} wished {hero.him} luck and {gesture}.
race_run:
-3 {hero} stood beside {a trait} {friend:pal.intro} in {a look} {color} {clothing}. {race_go} {aside}
-2 Next to {hero.him} was {friend:pal}, the most {trait} {pal.kid} from the {place}. {race_go} {aside}
-2 There were {number} children, and {friend:pal} was the most {trait} of them. {race_go} {aside}
race_go:
-3 {A worker} rang {a size} {look} bell, and the {contest} began!
-2 "Ready, set, go!" {cheered} the {worker}, and the {contest} began.
-1 {A look} whistle blew, and everyone {cheered}.
race_turn:
-3 But near the {spot_look} {spot}, {pal} fell in the {ground} and looked {sad} and {heavy}. {race_choice}
-2 Then {pal}'s {color} {clothing} tore on {a look} {behind}, and {pal} felt {sad} and {heavy}. {race_choice}
-2 Halfway through, {hero} heard {a size} {sound}. It was {pal}, who looked {scared}. {race_choice}
race_choice:
-3 {hero} stopped and {went} back {how}. "Take my hand," {hero_says}
-2 {hero} looked at the {award}, and then at {pal}. "I will help you," {hero_says}
-2 "Go on without me," {pal_sighs} But {hero} sat down {how} beside {pal.him}.
race_end:
-3 They finished last, and everyone {gesture}. {A trait} {worker} gave them each {a size} {color} {award}. {pair_end}
-2 {A trait} {worker} won the {award}, and {hero} {gesture}. "You are my best friend," {pal_says} {pair_end}
-2 "A friend is better than {a award}," {hero_says} "Yes," {pal_answers} {pair_end}
-1 {hero} did not win. But {pal} gave {hero.him} {a look} {color} {keepsake}. {pair_end}

new_start:
-3 {hero} and {hero.his} {elder} had just moved to {a size} {color} {home}. {new_first}
-2 It was {hero}'s first {daypart} at the {place_look} new school by the {place}. {new_first}
-2 One {weather} {daypart}, {hero} came to {a place_look} {place} where {hero.he} knew nobody. {new_first}
new_first:
-3 {Hero.he} felt {scared} and {heavy}.
-2 "I miss my old {room}," {hero_sighs}
-2 {Hero.he} held {hero.his} {look} {toy} {how}.
-1 All {hero.he} knew there was {a spot_look} {spot}.
new_shy:
-3 Some {trait} children played {game} near the {spot}. {Hero.he} only watched and felt {sad} and {heavy}.
-2 {Hero.he} sat down alone by {a spot_look} {spot} and ate {a food}. {aside}
-2 Everyone {together_one} and {together_two}, and {hero.he} looked at the {plants}. {Hero.he} was too {scared} to speak.
new_talk:
-3 Then {a trait} {friend:pal.intro} sat down next to {hero.him}. {new_ask}
-2 {A color} {toy} fell at {hero.his} feet. It belonged to {friend:pal}, {a trait} {pal.kid}. {new_ask}
-2 {A size} {animal} {went} by, and behind it came {a trait} {friend:pal.intro}. {new_ask}
new_ask:
-3 "Do you like {topic_one}?" {asked} {pal}. "I like {topic_two} and {hobby}," {hero_answers}
-2 "Do you want to play {game}?" {asked} {pal}. {hero} {gesture}. "I like {hobby} too," {hero_answers}
-2 "Would you like {a food}?" {asked} {pal}. "Yes, and you can have {number} {treats}," {hero_answers}
-1 "I like your {color} {clothing}," {pal_says} "I made it from {material}," {hero_answers}

sound_start:
-3 One {weather} night, {hero} heard {a sound} behind the {behind}. {sound_again}
-2 {hero} was in {hero.his} {look} bed when there was {a size} {sound} in the {room}. {sound_again}
-2 "What was that?" {asked} {hero} one {weather} night. There was {a sound} from the {room}. {sound_again}
sound_again:
-2 Then came {a size} {sound}, and {hero.he} felt {scared}.
-2 {Hero.he} pulled up the {look} {color} blanket and felt {scared}.
-1 Maybe it was {topic}! {Hero.he} was {scared}.
-1 Could it be {a size} {animal}? Could it be {topic}?
sound_look:
-3 {Hero.he} took {a look} {tool} and {went} {how} to the {room}. {sound_not}
-2 {Hero.he} woke {hero.his} {elder}, and they {went} {how} down the stairs with {a look} {color} lamp. {sound_not}
-2 {Hero.he} put on {a color} {clothing}, counted to {number} and {went} {how} to see. {sound_not}
sound_not:
-3 It was not the {under}, and it was not {a look} {tool} either.
-2 There was nobody behind the {behind}, and nothing inside the {look} {inside}.
-1 The {color} {clothing} on the wall looked like {a worker}, but it was not.
sound_found:
-3 Then something moved under the {under}. It was {a size} {color} {pet:pet_kind}! {sound_poor}
-2 Inside the {inside} sat {a trait} {pet:pet_kind} with {number} {treats}. {sound_poor}
-2 {hero} looked behind the {behind}, and two {color} eyes looked back. It was {a size} {pet:pet_kind}! {sound_poor}
sound_poor:
-2 "{exclamation}! You are only {a size} {pet_kind}," {hero_says}
-2 The {pet_kind} was {heavy} and even more {scared} than {hero}.
-1 It had come in from the {weather} {place}.
sound_end:
-3 {hero} gave the {pet_kind} some {treats} and called it {pet_name:pet_called}. {sound_last}
-2 "Your name is {pet_name:pet_called}," {hero_says} The {pet_kind} {animal_did}. {sound_last}
-2 The {pet_kind}, whose name was {pet_name:pet_called}, belonged to {a trait} {worker} at the {place}. {sound_last}
sound_last:
-3 {pet_called} slept on {a look} {color} {clothing} that night. {glad_end}
-2 After that, {hero} and {pet_called} {together_one} and {together_two} every {daypart}. {glad_end}
-2 "So the {sound} was you, {pet_called}," {hero_says} {glad_end}
"""
