"""The plots of the built-in corpus: what happens, told in slots that story_words fills.

Out: PLOTS, a block of rules (see story_grammar) whose `story` is a whole story. Variables, beyond those of
story_sentences: beast (an animal), pet_kind and pet_called, made (something to make), scare (a fear), feat (a
skill), job (a chore), feast (a party), contest, award, ship (what one pretends), crop (a seed), dish (a food).
"""

PLOTS = """
story:
- {open} {plot}
- {open} {scene} {plot}

plot:
-10 {lost_start}|{lost_search} {lost_help}|{lost_end}
-8 {share_start} {share_want}|{share_turn} {pair_end}
-9 {fear_start} {fear_tries}|{fear_turn} {fear_end}
-9 {animal_start} {animal_help}|{animal_care} {animal_end}
-9 {make_start} {make_work}|{make_fail} {make_end}
-8 {party_start} {party_work}|{party_day} {party_end}
-8 {race_start} {race_run}|{race_turn} {race_end}
-8 {rain_start} {rain_idea}|{rain_play} {rain_end}
-9 {promise_start} {promise_broken}|{promise_sorry} {promise_mended}
-7 {seed_start} {seed_wait}|{seed_grow} {seed_end}
-8 {new_start} {new_shy}|{new_talk} {pair_end}
-8 {sound_start} {sound_look}|{sound_found} {sound_end}
-8 {learn_start} {learn_fail}|{learn_again} {learn_end}
-6 {trade_start} {trade_chain}|{trade_last} {trade_end}

lost_start:
-3 {Hero.his} {elder:kin} had given {hero.him} {a_thing}. Every {daypart}, {hero} {treasure>use}. {lost_gone}
-2 {Hero.he} had {a_thing} from {hero.his} {elder:kin}, and {hero.he} {treasure>use} whenever {hero.he} felt {warm}.
  {lost_gone}
-2 Of all {hero.his} things, {hero} loved {a_thing} best, a present from {hero.his} {elder:kin}. {lost_gone}
-1 For {hero.his} birthday, {hero} got {a_thing} from {hero.his} {elder:kin}. {Hero.he} {treasure>use} and felt
  {glad}. {lost_gone}
lost_gone:
-3 One {weather} {daypart}, the {hue} {treasure} was gone! {hero} felt {sad} and {heavy}.
-2 But one {weather} {daypart}, {hero} could not find the {hue} {treasure}, and {hero.he} was {sad}.
-2 Then, on {a weather} {daypart} in {season}, the {treasure} was not in the {room}. {hero} was {sad_one} and {sad_two}.
-1 But when {hero} came home from the {place}, there was no {hue} {treasure}. "I am so {sad}," {hero_says}
lost_search:
-3 {hero} looked under the {under}, behind the {behind} and inside the {inside}.
-2 {Hero.he} searched the {room} first. Behind the {behind} there was only {a size} {color_one} {keepsake}.
-2 {hero} {went} to the {place} and looked near the {spot}, but found only {a look} {tool}.
-1 First {hero} emptied the {inside}. {Hero.he} found some {treats} and {a look} {toy}, but no {treasure}.
-1 "Have you seen my {treasure}?" {asked} {hero}. The {worker} had not, but gave {hero.him} {a food}.
lost_help:
-3 "Do not be {sad}," {kin_says} "{lost_advice}"
-2 {Hero.his} {kin} saw that {hero} was {heavy}. "{lost_advice}" {kin_says}
-2 Then {a trait} {animal} {went} by, and {hero} had an idea. "{lost_advice}" {hero_says}
-1 "{exclamation}! We can look together," {kin_says} So they {went} {how} to the {place}.
lost_advice:
-3 Let us look near the {spot}!
-2 Let us ask the {worker} at the {place}!
-2 When did you last see the {hue} {treasure}?
-2 Think {how}, and it will come back to you!
-1 Lost things like to hide behind {a look} {behind}!
lost_end:
-3 At last, {hero} looked under the {under}. There was the {hue} {treasure}! {lost_joy}
-2 Just then, {a size} {color_one} {animal} came out from behind the {behind} with the {hue} {treasure}. {lost_joy}
-2 Near the {spot}, something {color_one} was hiding the {hue} {treasure}. It was {a look} {clothing}! {lost_joy}
-2 The {worker} came {how} down the road. "Is this {hue} {treasure} yours?" {hero} {gesture}. {lost_joy}
-1 In the {ground} by the {spot} lay the {hue} {treasure}. {lost_joy}
lost_joy:
-3 "{exclamation}! My {treasure}!" {hero_says} {glad_end}
-3 {hero} {gesture} and held the {treasure} {how}. {kin_end}
-2 "Now I will keep it in the {inside}," {hero_answers} {kin_end}
-1 "Thank you," {hero_answers} {Hero.he} {treasure>use} until the {color} sun went down. {glad_end}

share_start:
-3 {day} {Hero.he} had {a size} {food:dish} in {hero.his} {inside}.
-2 {day} The {worker} gave {hero.him} {a opinion} {food:dish} and a cup of {drink}.
-2 One {weather} {daypart}, {hero.his} {elder} made {hero.him} {a opinion} {food:dish} with {treats_one} on top.
-1 {day} At the {spot}, {hero} sat down to eat {a size} {food:dish} and some {treats}.
share_want:
-3 {meet_pal} "I am hungry," {pal_says} "My {inside} is empty."
-2 {meet_pal} {pal} looked {heavy}. "I had {a food}, but {a size} {animal} ate it," {pal_says}
-2 Near the {spot} sat {a trait} {friend:pal.intro} with nothing to eat. {pal} looked {sad} and {heavy}.
-1 {meet_pal} "That is {a opinion} {dish}," {pal_says} {Pal.he} had only {number} {treats}.
share_turn:
-3 {hero} wanted the whole {dish}. Then {hero.he} thought of the {trait} {worker}, who always shared. {share_give}
-2 At first {hero} hid the {dish} behind the {behind}. But {hero.he} felt {sorry} and {heavy}. {share_give}
-2 {hero} looked at the {dish}, and {hero} looked at {pal}. {share_give}
-2 "It is mine," {hero_says} But {pal}'s eyes were {sad}, and {hero} felt {sorry}. {share_give}
share_give:
-3 "{exclamation}! Half is for you," {hero_says} The {dish} tasted {better} than ever.
-3 {hero} broke the {dish} in two. "Thank you," {pal_answers} "Here are {number} {treats} for you."
-2 So {hero} gave {pal} the bigger half. "You are {trait}," {pal_answers}
-1 "Let us share the {dish} and the {drink}," {hero_says} A {size} {animal} got the crumbs.
better:
-3 sweeter
-2 better
-1 finer
-1 richer

fear_start:
-3 There was only one thing: {hero} was {scared} of the {fear:scare}. {fear_why}
-2 But {hero.he} had a secret. The {fear:scare} made {hero.him} {scared} and {heavy}. {fear_why}
-2 Every {daypart}, {hero} felt {scared} because of the {fear:scare}. {fear_why}
-1 "I am not {scared} of {topic}," {hero_says} "But I am {scared} of the {fear:scare}." {fear_why}
fear_why:
-2 {Hero.he} thought of {topic} with {number} {look} teeth.
-2 Just to think of it, {hero} hid under the {under}.
-1 Once, {hero.he} had heard {a sound} there, and {a sound} after it.
-1 It seemed {a size} and {color} thing to {hero.him}.
fear_tries:
-3 {fear_day} {hero} {went} as far as the {spot}, but then {hero.he} {went} back.
-2 {fear_day} {hero} hid inside the {inside} and held {hero.his} {look} {toy}.
-2 {fear_day} "I feel {heavy}," {hero_says}
-1 {fear_day} {hero} put on {a color} {clothing} to be brave, but it did not help.
fear_day:
-3 One {weather} {daypart}, it was time to face the {scare}.
-2 One {daypart} in {season}, {hero.his} friends {went} right up to the {scare}.
-2 Then came {a weather} {daypart}, and nobody else was {scared} of the {scare}.
fear_turn:
-3 {Hero.his} {elder:kin} took {hero.his} hand. "{fear_advice}" {kin_says}
-2 "Once I was {scared} too," said {hero.his} {elder:kin}. "{fear_advice}"
-2 {Hero.his} {elder:kin} gave {hero.him} {a look} {keepsake}. "{fear_advice}" {kin_says}
-1 "Tell me about it," said {hero.his} {elder:kin} {how}. "{fear_advice}"
fear_advice:
-3 Think of {topic} and count to {number}.
-2 Sing a song about {topic_one} and {topic_two}.
-2 Take {number} {size} steps, and I will be here.
-2 Brave people are {scared} too, but they go on {how}.
-1 Pretend that you are {a trait} {worker}.
fear_end:
-3 {hero} held on {how} and took {number} steps. The {scare} was not so bad! {fear_last}
-2 {hero} thought of {topic} and {went} on {how}. Soon {hero.he} {gesture}. {fear_last}
-2 So {hero} counted to {number}, and {hero.his} heart grew {warm}. {fear_last}
-1 Step by step, {hero} came nearer. There was only {a size} {color} {animal}! {fear_last}
fear_last:
-3 "{exclamation}! I did it!" {hero_says} {kin_end}
-2 "I am not {scared} any more," {hero_says} {glad_end}
-2 The {scare} never made {hero.him} {scared} again. {kin_end}
-1 "You were so {trait}," {kin_says} {glad_end}

animal_start:
-4 {day} Near the {spot}, {hero.he} heard {a sound}. {A size} {color_one} {animal:beast} had {trouble}.
-3 {day} Then {hero.he} saw {a size} {animal:beast} in the {ground}. It had {trouble}.
-2 {day} There, behind {a look} {behind}, sat {a color_one} {animal:beast}. The poor thing had {trouble}.
-1 One {weather} {daypart}, {a size} {animal:beast} lay by the door. It had {trouble}.
animal_help:
-3 "You poor {beast}," {hero_says} "I will help you." The {beast} looked {scared}.
-2 "{exclamation}! Do not be {scared}," {hero_says} The {beast} {gesture}.
-2 The {beast} looked {sad} and {heavy}. {hero} sat down {how} beside it.
-2 {hero} was {sad} to see it. "Wait here, little {beast}," {hero_says}
animal_care:
-3 {hero} {went} home and came back with {remedy} and some {treats}. {animal_better}
-2 {hero} called {hero.his} {elder:kin}. Together they {went} {how} to the {beast} with {remedy}. {animal_better}
-2 {Hero.he} put {hero.his} {color} {clothing} around the {beast} and gave it {remedy}. {animal_better}
-2 "We need {remedy}," said the {worker} from the {place}, and {hero} {went} {how} to get it. {animal_better}
animal_better:
-3 After {number} days, the {beast} was {warm} again.
-2 Very {how}, the {beast} stood up and {creature_did}.
-2 Soon the {beast} ate {number} {treats} and {creature_did} {how}.
-1 The {beast} slept in {a look} {inside} until {daypart}, and then it was {warm}.
animal_end:
-3 From then on, the {beast} waited for {hero} by the {spot}. They {together_one} and {together_two}. {glad_end}
-2 The next {daypart}, the {beast} brought {hero.him} {a look} {color} {keepsake}. {glad_end}
-2 "Goodbye, {beast}!" {hero_says} The {beast} {went} back to the {place}. {glad_end}
-2 {hero} called the {beast} {pet_name}, and they played {game} in the {ground}. {glad_end}

make_start:
-3 One {weather} {daypart}, {hero} wanted to make {a craft:made} for {hero.his} {elder:kin}. {make_why}
-2 {Hero.his} {elder:kin} looked {sad}, so {hero} decided to make {kin.him} {a opinion} {craft:made}. {make_why}
-2 It was {a weather} {daypart} in {season}. "I will make {a craft:made} for my {elder:kin}," {hero_says} {make_why}
-1 {hero} saw {a opinion} {craft:made} at the {place} and wanted one for {hero.his} {elder:kin}. {make_why}
make_why:
-2 It had to be {look} and {color}.
-2 {Kin.he} had always liked {topic}.
-2 {hero} felt {warm} just to think of it.
-1 {hero.his} birthday was in {number} days.
make_work:
-3 {hero} took {material_one} and {material_two} from the {inside}. {Hero.he} worked {how} in the {room}.
-2 In the {room}, {hero} found {number} {color} {decoration} and some {material}. {Hero.he} worked {how_one} and {how_two}.
-2 {hero} asked the {worker} for {material_one}, {material_two} and {a look} {tool}.
-1 First {hero} drew it on {color} paper. Then {hero.he} got some {material_one} and some {material_two}.
make_fail:
-3 But the {made} was too {size}, and it fell apart. {hero} felt {sad}. {make_hope}
-2 Then {a size} {pet} {went} by, and the {made} fell to the floor! {hero} was {sad} and {heavy}. {make_hope}
-2 But the {material} would not hold, and the {made} looked {look}. "It is {awful}," {hero_says} {make_hope}
-1 At first the {made} looked like {a look} {tool}. {hero} felt {sad}. {make_hope}
awful:
-3 awful
-2 terrible
-2 no good
-1 all wrong
make_hope:
-3 {hero} tried again {how}, with more {material} this time.
-2 {Hero.he} ate {a food} and began again with {material} and {decoration}.
-2 "Try {a size} bit of {material}," said the {worker}, and that worked.
-1 {friend:pal} came to help with {number} {decoration}, and soon it was done.
make_end:
-3 At last the {made} was done. It was {color_one} and {color_two}, with {decoration} on top. {make_gift}
-2 By {daypart}, there was {a opinion} {look} {made} on the table. {make_gift}
-2 Now the {made} looked {opinion}. {hero} put some {decoration} on it and {gesture}. {make_gift}
make_gift:
-3 "{exclamation}! It is {opinion}," {kin_says} {kin_end}
-2 "I made it for you," {hero_answers} {kin_end}
-2 {Hero.his} {kin} {gesture} and put the {made} in the {room}. {kin_end}
-1 "Nobody ever gave me {a made}," {kin_says} {glad_end}

party_start:
-3 {hero} had a secret. {Hero.he} was planning {a party:feast} for {hero.his} friend {friend:pal}. {party_hush}
-2 Soon it would be {friend:pal}'s birthday, and {hero} wanted to give {pal.him} {a party:feast}. {party_hush}
-2 One {weather} {daypart}, {hero} thought of a surprise for {friend:pal}: {a party:feast}! {party_hush}
party_hush:
-2 "Do not tell {pal}," {hero_says}
-2 Only the {worker} and {a trait} {animal} knew.
-1 {Hero.he} wrote the plan in {a size} {color} {book}.
-1 It would be at the {place}, near the {spot}.
party_work:
-3 {hero} hung {number} {decoration_one} over the {under} and {decoration_two} on the {behind}. {party_doubt}
-2 {hero} baked {a food} with {treats_one} and {treats_two}. The {room} smelled of {smell}. {party_doubt}
-2 The {worker} brought {color_one} {decoration_one} and {color_two} {decoration_two}. {party_doubt}
-1 {hero} filled {a look} {inside} with {treats} and {a color} jug with {drink}. {party_doubt}
party_doubt:
-3 But {pal} felt {sad}. "Nobody wants to play {game} with me," {pal_says}
-2 Meanwhile, {pal} sat alone by the {spot} and felt {sad} and {heavy}.
-2 "Why is {hero} so busy?" {asked} {pal}. {Pal.he} was {sad}.
-1 {pal} saw the {decoration} and {asked} about them. "They are for {topic}," {hero_answers}
party_day:
-3 Then the {daypart} came. {hero} asked {pal} to come to the {place}. "Surprise!" everyone {said}. {party_gift}
-2 On {daypart}, {pal} opened the {look} door. There stood {hero}, the {worker} and {number} friends! {party_gift}
-2 At last it was time for the {feast}. {pal} came in {how}. "Surprise!" {hero_says} {party_gift}
party_gift:
-2 {pal} got {a_thing} and {gesture}.
-2 There was {a food} for everyone, and {a look} {toy} for {pal}.
-1 {pal}'s face turned {color}, and {pal.he} {gesture}.
-1 They played {game} and {together}.
party_end:
-3 "{exclamation}! You did all this for me?" {asked} {pal}. {pair_end}
-2 "I thought you forgot me," {pal_answers} "I could never forget you," {hero_answers} {pair_end}
-2 "This is the most {opinion} {feast} of all," {pal_says} {pair_end}

race_start:
-3 One {weather} {daypart}, there was {a race:contest} at the {place}. {hero} wanted to win the {prize:award}. {race_ready}
-2 In {season}, the town held {a opinion} {race:contest}. The winner would get {a opinion} {prize:award}. {race_ready}
-2 "I will win the {race:contest} and the {prize:award}," {hero_says} {race_ready}
race_ready:
-2 {Hero.he} practiced {how} every {daypart}.
-2 {Hero.he} put on {hero.his} {color} {clothing} and ate {a food}.
-1 {Hero.he} felt {glad} and a little {scared}.
-1 The {worker} wished {hero.him} luck and {gesture}.
race_run:
-3 {hero} stood beside {a trait} {friend:pal.intro} in {a color} {clothing}. {race_go}
-2 Next to {hero.him} was {friend:pal}, the most {trait} {pal.kid} at the {place}. {race_go}
-2 There were {number} children, and {friend:pal} was the most {trait} of them. {race_go}
race_go:
-3 The {worker} rang {a size} {look} bell, and the {contest} began!
-2 "Ready, set, go!" {said} the {worker}, and off they went.
-1 {A look} whistle blew, and everyone {said}.
race_turn:
-3 {hero} was ahead. But near the {spot}, {pal} fell in the {ground} and looked {sad}. {race_choice}
-2 Then {pal}'s {color} {clothing} tore on {a look} {behind}, and {pal} felt {sad} and {heavy}. {race_choice}
-2 Halfway through, {hero} heard {a sound}. It was {pal}, who looked {scared}. {race_choice}
race_choice:
-3 {hero} stopped and {went} back. "Take my hand," {hero_says}
-2 {hero} looked at the {award}, and then at {pal}. "I will help you," {hero_says}
-2 "Go on without me," {pal_answers} But {hero} sat down beside {pal.him}.
race_end:
-3 They finished last, together, and everyone {gesture}. The {worker} gave them each {a size} {award}. {pair_end}
-2 {A trait} {animal} won the {award}, and {hero} {gesture}. "You are my best friend," {pal_says} {pair_end}
-2 "A friend is better than {a award}," {hero_says} "Yes," {pal_answers} {pair_end}
-1 {hero} did not win. But {pal} gave {hero.him} {a look} {color} {keepsake}. {pair_end}

rain_start:
-3 One {daypart}, rain fell on the {place}, and {hero} could not go out. {rain_bored}
-2 It was a rainy {daypart} in {season}. The {spot} was wet, and so were the {creatures}. {rain_bored}
-2 "Rain, rain, rain," {hero_says} The {plants} drooped, and the {ground} was wet. {rain_bored}
rain_bored:
-2 {hero} felt {sad} and {heavy}.
-2 {hero} had read {hero.his} {book} and played with {hero.his} {look} {toy}.
-1 {hero} looked out of the window and counted {number} {creatures}.
-1 There would be no {hobby} today.
rain_idea:
-3 Then {hero.his} {elder:kin} came with {number} {furnishing}. "Let us build {a pretend:ship}," {kin_says}
-2 "{exclamation}! This {room} could be {a pretend:ship}," said {hero.his} {elder:kin} {how}.
-2 {Hero.his} {elder:kin} looked at the {furnishing_one} and the {furnishing_two}. "I see {a pretend:ship}," {kin_says}
rain_play:
-3 They piled up {furnishing_one} and {furnishing_two} in the {room}. {A look} {tool} was the door. {rain_trip}
-2 Soon there was {a opinion} {ship} behind the {behind}, made of {color} {furnishing}. {rain_trip}
-2 {hero} was {a worker} in {a color} {clothing}, and {hero.his} {kin} was {a trait} {animal}. {rain_trip}
rain_trip:
-3 The {ship} took them to {a place_look} {place}, where {topic} {gesture}.
-2 Inside the {ship}, they met {topic_one} and {topic_two} and ate {treats}.
-2 In the {ship}, {hero} found {a look} {color} {keepsake} and {number} {treats}.
-1 "{exclamation}! I see {topic}," {hero_says}
rain_end:
-3 When the rain stopped, {hero} did not even notice. {kin_end}
-2 Then the sun came out, and the {plants} {plant_did}. "Can we stay in the {ship}?" {asked} {hero}. {kin_end}
-2 "I like rain now," {hero_says} {kin_end}
-1 {A color} rainbow stood over the {place}. {glad_end}

promise_start:
-3 "Will you {chore:job}?" {asked} {hero.his} {elder:kin} one {weather} {daypart}. "I promise," {hero_answers}
-2 One {weather} {daypart}, {hero} promised {hero.his} {elder:kin} to {chore:job}.
-2 "I have to go to the {place}," said {hero.his} {elder:kin}. "Please {chore:job}." {hero} promised.
promise_broken:
-3 But then {friend:pal} came with {a_thing}, and they played {game}. {hero} forgot {hero.his} promise. {promise_bad}
-2 But {hero} {went} to the {place} to see {a size} {color} {animal}, and forgot to {job}. {promise_bad}
-2 But there was {a opinion} {book} about {topic} under the {under}, and {hero} read all {daypart}. {promise_bad}
promise_bad:
-3 When {hero.his} {kin} came home, {kin.he} was {sad}. "You promised to {job}," {kin_says}
-2 In the {daypart}, {hero.his} {kin} looked {heavy}. "I trusted you," {kin_says}
-2 "Did you {job}?" {asked} {hero.his} {kin}. {hero}'s face turned {color}.
promise_sorry:
-3 {hero} felt {sorry}. "I am {sorry}. I forgot," {hero_answers} {promise_forgive}
-2 {hero} felt {sorry} and hid behind the {behind}. Then {hero.he} came out {how}. "It was my fault," {hero_answers}
  {promise_forgive}
-2 First {hero} wanted to blame {a size} {animal}. But {hero.he} was {honest}. "I forgot," {hero_answers}
  {promise_forgive}
honest:
-2 honest
-1 an honest child
-1 too {trait} for that
promise_forgive:
-2 "Thank you for the truth," {kin_says}
-2 "Everyone forgets sometimes, even {a trait} {worker}," {kin_says}
-1 {Hero.his} {kin} {gesture} {how}.
-1 "A promise is like {a look} {keepsake}," {kin_says}
promise_mended:
-3 The next {daypart}, {hero} got up early to {job}. {promise_done}
-2 Right away, {hero} put on {a look} {clothing} and {went} to {job}. {promise_done}
-2 {hero} tied {a color} string around {hero.his} finger, and from then on {hero.he} never forgot to {job}. {promise_done}
promise_done:
-2 {Hero.he} also gave {hero.his} {kin} {a opinion} {craft} made of {material}. {kin_end}
-2 "{exclamation}! You kept your promise," {kin_says} {kin_end}
-2 It was hard work, but {hero} felt {glad}. {kin_end}
-1 {A size} {animal} watched and {creature_did} {how}. {kin_end}

seed_start:
-3 One {daypart} in {season}, the {worker} gave {hero} {number} {seed:crop} seeds. {seed_plant}
-2 {hero} found {a size} bag of {seed:crop} seeds in the {room}. {seed_plant}
-2 "What is in the {color} bag?" {asked} {hero}. "Seeds for {a seed:crop} bed," said the {worker}. {seed_plant}
seed_plant:
-3 {Hero.he} dug {number} {size} holes near the {spot} and planted them {how}.
-2 {Hero.he} planted them in {a look} {inside} by the {behind}.
-1 {Hero.he} put them in the earth by the {plants} and sang about {topic}.
seed_wait:
-3 Every {daypart}, {hero} looked, but there was only {ground}. {Hero.he} felt {sad}. {seed_help}
-2 {hero} waited {number} days, but no {crop} came up. "They are gone," {hero_says} {seed_help}
-2 {A weather} week went by. {A size} {animal} dug in the bed, and {hero} was {sad}. {seed_help}
seed_help:
-3 "Be patient," said {hero.his} {elder:kin} {how}. "Good things are slow."
-2 {Hero.his} {elder:kin} brought {a look} {tool}. "Seeds need water and {ground_good}," {kin_says}
-1 "Let us build {a look} scarecrow with {a color} {clothing}," said {hero.his} {elder:kin}.
ground_good:
-2 sunshine
-1 time
-1 songs about {topic}
seed_grow:
-3 Then, one {weather} {daypart}, there was {a size} green leaf! {seed_joy}
-2 After {a weather} night, {hero} saw {number} green leaves in the {ground}. {seed_joy}
-2 In {season}, something {color} peeped out of the earth. {seed_joy}
seed_joy:
-2 "{exclamation}! My {crop}!" {hero_says} {A animal} {creature_did}.
-2 {hero} {gesture} and {went} {how} to tell {hero.his} {kin}.
-1 Soon {creatures} {creature_did} around it, and the {plants} {plant_did}.
seed_end:
-3 By {season}, {hero} had {a size} {crop} patch. {Hero.he} shared it with the {worker} and {a trait} {animal}. {kin_end}
-2 {Hero.his} {kin} cooked {a food} with it, and the {room} smelled of {smell}. {kin_end}
-2 "I was patient," {hero_says} "You were {trait} too," {kin_says} {glad_end}

new_start:
-3 {hero} and {hero.his} {elder:kin} had just moved to {a size} {color} {home}. {new_first}
-2 It was {hero}'s first {daypart} at the new school by the {place}. {new_first}
-2 One {weather} {daypart}, {hero} came to {a place_look} {place} where {hero.he} knew nobody. {new_first}
new_first:
-3 {hero} felt {scared} and {heavy}.
-2 "I miss my old {room}," {hero_says}
-1 {hero} held {hero.his} {look} {toy} {how}.
-1 All {hero.he} knew there was {a look} {spot}.
new_shy:
-3 Some children played {game} near the {spot}. {hero} only watched and felt {sad}.
-2 {hero} sat down alone behind the {behind} and ate {a food}.
-2 Everyone {together} together, and {hero} looked at the {plants}. {Hero.he} was too {scared} to speak.
new_talk:
-3 Then {a trait} {friend:pal.intro} sat down next to {hero.him}. {new_ask}
-2 {A color} {toy} rolled up to {hero.his} feet. It belonged to {friend:pal}, {a trait} {pal.kid}. {new_ask}
-2 {A size} {animal} {went} by, and behind it came {a trait} {friend:pal.intro}. {new_ask}
new_ask:
-3 "Do you like {topic_one}?" {asked} {pal}. "I like {topic_one} and {topic_two}," {hero_answers}
-2 "Do you want to play {game}?" {asked} {pal}. {hero} {gesture}. "I like {hobby} too," {hero_answers}
-2 "Would you like {a food}?" {asked} {pal}. "Yes, and you can have some {treats}," {hero_answers}
-1 "I like your {color} {clothing}," {pal_says} "I like your {clothing} too," {hero_answers}

sound_start:
-3 One {weather} night, {hero} heard {a sound} behind the {behind}. {sound_again}
-2 {hero} was in {hero.his} bed when there was {a sound} in the {room}. {sound_again}
-2 "What was that?" {asked} {hero} one {weather} night. There was {a sound} from the {room}. {sound_again}
sound_again:
-2 Then came {a sound}, and {hero} felt {scared}.
-2 {Hero.he} pulled up the {color} blanket and felt {scared}.
-1 Maybe it was {topic}! {hero} was {scared}.
-1 Could it be {a size} {animal}? Could it be {topic}?
sound_look:
-3 {hero} took {a look} {tool} and {went} {how} to the {room}. {sound_not}
-2 {hero} woke {hero.his} {elder}, and they {went} {how} down the stairs with {a look} lamp. {sound_not}
-2 {hero} put on {a color} {clothing}, counted to {number} and {went} to see. {sound_not}
sound_not:
-3 It was not the {under}, and it was not {a look} {tool} either.
-2 There was nobody behind the {behind}, and nothing inside the {inside}.
-1 The {color} {clothing} on the wall looked like {a worker}, but it was not.
sound_found:
-3 Then something moved under the {under}. It was {a size} {color} {pet:pet_kind}! {sound_poor}
-2 Inside the {inside} sat {a trait} {pet:pet_kind} with {number} {treats}. {sound_poor}
-2 {hero} looked behind the {behind}, and two {color} eyes looked back. It was {a pet:pet_kind}! {sound_poor}
sound_poor:
-2 "{exclamation}! You are only {a size} {pet_kind}," {hero_says}
-2 The {pet_kind} was {heavy} and even more {scared} than {hero}.
-1 It had come in from the {weather} {place}.
sound_end:
-3 {hero} gave the {pet_kind} some {treats} and called it {pet_name:pet_called}. {sound_last}
-2 "Your name is {pet_name:pet_called}," {hero_says} The {pet_kind} {creature_did}. {sound_last}
-2 The {pet_kind}, whose name was {pet_name:pet_called}, belonged to the {worker} at the {place}. {sound_last}
sound_last:
-3 {pet_called} slept on {a look} {color} {clothing} that night. {glad_end}
-2 After that, {hero} and {pet_called} {together_one} and {together_two} every {daypart}. {glad_end}
-2 "No more {sound} at night, {pet_called}," {hero_says} {glad_end}

learn_start:
-3 More than anything, {hero} wanted to {skill:feat}. {learn_who}
-2 "I want to {skill:feat}," {hero_says} {learn_who}
-2 At the {place}, {hero} saw {a worker} {skill:feat}, and {hero.he} wanted to do it too. {learn_who}
learn_who:
-3 {Hero.his} {elder:kin} could do it {how}. "I will teach you," {kin_says}
-2 {Hero.his} {elder:kin} had learned it long ago at {a place_look} {place}.
-2 "It takes time," said {hero.his} {elder:kin} {how}.
learn_fail:
-3 One {weather} {daypart}, {hero} tried for the first time and fell into the {ground}. {learn_sad}
-2 {hero} tried {number} times by the {spot}, but it did not work. {learn_sad}
-2 On {daypart}, {hero} tried in the {room}, and {a look} {tool} fell down. {learn_sad}
learn_sad:
-2 "I will never {feat}," {hero_says} {Hero.he} felt {sad}.
-2 {A size} {animal} watched and {creature_did}. {hero} was {sad} and {heavy}.
-1 {hero} threw {hero.his} {color} {clothing} into the {ground} and felt {sad}.
learn_again:
-3 "Even {a trait} {worker} falls {number} times," {kin_says} "Try again {how}." {learn_try}
-2 {Hero.his} {kin} gave {hero.him} {a food}. "Rest, and then try again," {kin_says} {learn_try}
-2 {Hero.his} {kin} {gesture}. "Do it {how_one} and {how_two}," {kin_says} {learn_try}
learn_try:
-3 So {hero} practiced {how} every {daypart}.
-2 {hero} tried again in {season}, with {a color} {clothing} for luck.
-1 {hero} thought of {topic} and tried once more.
learn_end:
-3 Then, one {weather} {daypart}, it worked! "{exclamation}! I can {feat}!" {hero_says} {kin_end}
-2 And at last, near the {spot}, {hero} could {feat}. The {worker} {gesture}. {kin_end}
-2 After {number} {weather} days, {hero} could {feat} {how}. {kin_end}
-1 "Look at me!" {hero_says} {Number} {creatures} {creature_did}. {glad_end}

trade_start:
-3 {day} {Hero.he} carried {a_thing}, but {hero.he} did not need it any more.
-2 One {daypart}, {hero} wanted {a opinion} {pet:pet_kind}, but {hero.he} had only {a_thing}.
-2 {Hero.he} had {a_thing}, but what {hero.he} wanted was a present for {hero.his} {elder}.
trade_chain:
-3 {Hero.he} met {a worker} who was {sad}. "I need {a treasure}," {said} the {worker}. {trade_swap}
-2 By the {spot} stood {a trait} {worker}. "What {a opinion} {treasure}," said the {worker}. {trade_swap}
-2 At the {place}, {a worker} looked {how} at the {hue} {treasure}. {trade_swap}
trade_swap:
-3 So {hero} gave away the {treasure} and got {a size} {look} {tool}.
-2 {hero} got {a food} and {number} {treats} for it.
-2 For the {hue} {treasure}, {hero} got {a look} {clothing} with {decoration}.
trade_last:
-3 Next, {a animal_one} {trade_wish}, and gave {hero.him} {a color} {keepsake}. {trade_kid}
-2 Then {a trait} {friend:pal.intro} {trade_wish}. "Take my {look} {toy} for it," {pal_says} {trade_kid}
-2 After that, {a look} {animal_one} {went} off with it and left {hero} {a opinion} {book}. {trade_kid}
trade_wish:
-2 wanted it
-2 {gesture} at it {how}
-1 asked for it {how}
trade_kid:
-3 Last of all came a child who was {sad} and {heavy}. {hero} gave it all away {how}.
-2 On the way home, {hero} saw a child with nothing to play with. "It is for you," {hero_says}
-1 {hero} was {glad} and swapped until the {color} sun went down.
trade_end:
-3 Now {hero.his} {inside} was empty, but {hero} felt {warm}. {glad_end}
-2 "I have nothing left but {a opinion} {daypart}," {hero_says} {glad_end}
-2 When {hero} came home, {a size} {color} {pet} sat at the door! {glad_end}
"""
