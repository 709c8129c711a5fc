"""The word lists of the built-in corpus: who, what, where and how the stories may tell of.

Out: WORDS, {list name: entries}, commonest first (the grammar's weights fall with the rank). An entry maps form
names to texts; "word" is the plain one. People also have he, him, his, kid and intro; things have `use`, the rule
that says what one does with them. A list of PAIRED comes twice more in halves, `<name>_one` and `<name>_two`, so
that "X and Y" never names one word twice. In a list no entry's words begin another's (the tests hold that).
"""

LISTS = """
girls:
Lily Mia Emma Anna Rosie Ella Zoe Ruby Nora Lucy Clara Ivy Maya Alice Hazel Daisy Molly Sophie Elsie Luna
Penny Stella Violet Ada Iris Wendy Tessa Maggie Freya Pearl Olive Greta Cora Fern Matilda Juniper Marigold
Beatrice Willa Esme Ingrid Noor Yuki Priya Amara
boys:
Tom Ben Max Sam Leo Jack Finn Oliver Noah Henry Theo Oscar Milo Hugo Felix Jasper Toby Charlie Eli Owen
Arthur Rory Archie Otis Louis Silas Ezra Bruno Caleb Wesley Rowan Barnaby Casper Edgar Ravi Kofi Diego Mateo
Kenji Omar Anton Lars Emil Idris Sven
friend_girls:
Sara Kate Jane Amy Polly Bella Nina Holly June Dora Lena Poppy Tilda Carmen Ottilie Mabel Winnie Flora Rita
Heidi Leila Agnes Sunita Opal Bonnie
friend_boys:
Tim Will Joe Dan Nick Peter Adam Luke Harry Gus Rex Simon Alfie Walter Marco Ned Stanley Hamish Pablo
Ibrahim Clive Viktor Ambrose Percy Jonah
she_elders:
mom grandma aunt big_sister godmother mama great-aunt stepmother nana
he_elders:
dad grandpa uncle big_brother godfather papa great-uncle stepfather granddad
worker:
baker farmer gardener postman fisherman librarian carpenter shopkeeper painter tailor clockmaker shepherd
sailor beekeeper cobbler blacksmith miller potter weaver doctor bus_driver nurse captain janitor florist
toymaker cook ferryman lamplighter violinist plumber candlemaker ranger zookeeper astronomer grocer juggler
chef pilot mapmaker goldsmith weatherman milkman gatekeeper woodcutter innkeeper puppeteer
trait:
kind brave curious cheerful clever gentle shy playful quiet friendly thoughtful happy lively careful funny
polite patient dreamy bold sweet bright helpful eager merry stubborn generous serious honest sensible
adventurous talkative impatient energetic imaginative nimble bashful warmhearted spirited wise cautious
mischievous restless good-natured hopeful fearless loyal inventive messy chatty daring modest gracious
joyful sleepy plucky witty tidy clumsy dependable jolly fair sincere lovable quick-witted
praise:
kind good generous brave thoughtful clever gentle wise helpful patient sweet honest loyal strong friendly
wonderful caring careful noble true
opinion:
lovely beautiful special wonderful nice funny pretty strange perfect fine splendid curious charming precious
handsome marvelous fancy magnificent simple odd delightful remarkable ordinary peculiar cozy elegant humble
unusual amazing cheerful magical
size:
little big small tiny huge tall round large short thin enormous plump giant wee miniature gigantic slim
mighty towering massive teeny petite hefty medium-sized stout
look:
old shiny wooden soft bright smooth painted striped dusty golden silver fluffy sparkly spotted squeaky rusty
sturdy woolen velvet glittering wobbly crooked worn patched polished carved speckled checkered bumpy faded
dented glossy knitted scratched gleaming embroidered tattered frayed lopsided handmade chipped quilted
battered shabby crinkled dainty frosted mossy leathery silky plain pointed hollow curly crumpled
color:
red blue green yellow white purple brown pink orange black gray turquoise scarlet crimson lavender ivory
lilac amber cream violet maroon emerald bronze copper indigo teal mint coral beige navy tan ruby olive lemon
chestnut
sky_color:
golden pink red orange silver purple crimson rosy amber pale scarlet violet copper bright glowing
toy:
ball kite doll teddy_bear puzzle spinning_top toy_train toy_boat robot toy_truck puppet rocking_horse yo-yo
jump_rope scooter stuffed_rabbit rubber_duck dinosaur pinwheel dollhouse toy_castle marble rag_doll
toy_airplane balloon stuffed_elephant hoop toy_soldier jack-in-the-box boomerang skateboard toy_dragon
frisbee trampoline sled stuffed_giraffe tricycle toy_rocket toy_tractor dragon_puppet
keepsake:
shell button ring feather coin locket key ribbon bracelet pebble medal necklace stamp crystal photograph
music_box snow_globe acorn brooch postcard glass_bead pocket_watch badge charm seashell fossil arrowhead
bookmark thimble horseshoe figurine bottle_cap pinecone trinket lucky_penny friendship_bracelet gemstone
hair_clip compass whistle
instrument:
drum flute trumpet guitar harmonica violin tambourine xylophone banjo accordion ukulele recorder bugle harp
cello piccolo triangle fiddle trombone mandolin
clothing:
hat scarf coat sweater cap cape raincoat vest jacket dress shirt apron bonnet crown cardigan bow_tie sun_hat
mask costume poncho cloak beret robe backpack mitten belt headband sash bandana nightcap
tool:
bucket lantern basket wagon umbrella telescope magnifying_glass shovel flashlight fishing_rod paintbrush
watering_can net hammock wheelbarrow toolbox tent pencil_box lunchbox hourglass ladder camera canteen oar
paddle birdhouse wind_chime mailbox jar sketchpad
book:
book map notebook storybook diary comic atlas songbook picture_book scrapbook letter recipe_book calendar
dictionary riddle_book photo_album treasure_map encyclopedia sticker_book almanac
food:
cookie sandwich pie apple_cake pancake muffin pear cupcake plum waffle peach_tart bun gingerbread_man
doughnut cinnamon_roll cheese_roll banana melon dumpling pretzel lemon_cake biscuit tomato omelet honey_cake
apricot scone mango pudding brownie corn_muffin fig potato_pie cherry_tart croissant coconut popsicle
walnut_loaf pumpkin_pie blueberry_muffin raspberry_tart pineapple strudel burrito macaroon bagel flapjack
cracker meatball quiche tangerine
drink:
milk lemonade water apple_juice cocoa tea orange_juice ginger_ale grape_juice cider hot_chocolate
berry_punch peppermint_tea buttermilk peach_nectar
treats:
cookies strawberries cherries grapes raisins crackers nuts carrots blueberries candies oranges dumplings
pretzels peanuts cupcakes plums marshmallows raspberries gumdrops almonds peaches chestnuts biscuits
caramels pancakes lollipops jellybeans toffees walnuts figs dates radishes olives apricots
place:
park forest garden beach lake river meadow farm market hill village playground harbor library orchard pond
town_square bakery museum school train_station mountain waterfall castle zoo valley field bridge lighthouse
fairground cave island bookshop windmill campground toy_shop greenhouse circus barn vineyard theater
aquarium canyon courtyard marsh post_office observatory riverbank cottage shipyard treehouse crossroads
sandbank
place_look:
quiet sunny nearby old busy little green peaceful windy misty leafy crowded famous shady hidden grassy
pleasant muddy sleepy bustling distant cheery sparkling snowy rocky lonely breezy mossy wild silent dusky
charming far-off
home:
house cottage cabin farmhouse apartment houseboat bungalow log_house townhouse
room:
kitchen bedroom attic living_room cellar hallway garage playroom pantry laundry_room bathroom shed study
dining_room workshop sunroom basement conservatory nursery
under:
bed sofa table rug chair pillow blanket bench dresser doormat cushion stairs stove piano wardrobe quilt desk
mattress footstool sink tablecloth armchair newspaper hammock
behind:
door curtain bookshelf couch fence shed fireplace trash_can clock washing_machine fridge gate woodpile
barrel mirror haystack flowerpot rain_barrel cupboard rosebush chicken_coop compost_heap picture_frame well
inside:
drawer toy_box closet basket suitcase teapot backpack mailbox cookie_jar trunk boot laundry_bin cabinet vase
coat_pocket wheelbarrow oven sewing_box umbrella_stand doghouse crate pail cooking_pot saddlebag
spot:
oak_tree bush log willow wall stump boulder apple_tree park_bench wooden_bridge hedge lamppost pine_tree
fountain statue maple_tree bridge signpost birch_tree scarecrow stone_arch cherry_tree picnic_table beehive
bandstand water_pump brick_tower toolshed sundial well_house gatepost chestnut_tree fir_tree millstone
signboard rose_arbor wishing_well clothesline elm_tree rock hay_cart
spot_look:
old tall crooked mossy little hollow broken gnarled leaning lonely quiet shady dusty stony weathered snowy
leafy ancient famous big muddy sunlit
animal:
rabbit bird squirrel dog cat frog duck mouse fox turtle owl hedgehog kitten deer pony goat lamb bear beaver
puppy hen otter goose sparrow raccoon mole donkey badger robin chipmunk swan calf snail crow pigeon ladybug
toad hamster seal woodpecker penguin parrot bumblebee lizard salamander heron raven weasel piglet kingfisher
peacock magpie caterpillar cricket dormouse moose mongoose gecko wombat llama hippo koala panda skunk newt
partridge
animal_did:
watched waited listened rested blinked yawned stretched snored nodded hiccupped stared dozed sneezed grinned
wriggled shivered scratched sniffed hummed purred wiggled
pet:
puppy kitten rabbit parrot hamster pony goat duckling turtle canary guinea_pig hen lamb mouse piglet
goldfish ferret tortoise sheepdog terrier
pet_name:
Biscuit Pepper Button Whiskers Clover Ginger Muffin Pickle Patches Snowball Coco Bubbles Pebble Waffles
Nutmeg Mittens Dumpling Sprout Pumpkin Cinnamon Marshmallow Noodle Pudding Captain Tuppence Cricket Peanut
Bramble Truffle Moss
plants:
flowers roses daisies tulips leaves branches ferns sunflowers reeds grasses buttercups lilies willows
violets poppies dandelions bluebells vines daffodils bushes mushrooms cornstalks berries pansies marigolds
orchids thistles snowdrops saplings cattails toadstools primroses
seed:
carrot sunflower pumpkin bean tomato pea strawberry radish lettuce cucumber turnip melon onion tulip potato
beet squash spinach cabbage pepper rosemary basil poppy zinnia
bird:
birds robins swallows sparrows geese doves pigeons chickadees finches larks seagulls owls blackbirds wrens
crows starlings magpies cuckoos nightingales
bird_did:
sang chirped twittered whistled called chattered warbled cooed circled soared fussed nested glided
bug:
bees butterflies dragonflies fireflies ladybugs crickets moths beetles hummingbirds grasshoppers bumblebees
mayflies
bug_did:
buzzed fluttered danced hummed darted whirred flitted hovered drifted sparkled
critter:
squirrels rabbits frogs ducks chipmunks lizards hedgehogs turtles kittens otters beavers toads deer mice
lambs goats ponies foxes
critter_did:
played rested hopped hid dozed scurried gathered wandered raced tumbled nibbled yawned paddled sunbathed
plant_did:
swayed danced rustled nodded shone trembled whispered glistened bent waved shivered bobbed glowed sparkled
drooped stirred quivered shimmered blossomed fluttered curled leaned stretched unfolded
wind:
gentle warm soft cool light fresh chilly salty strong crisp playful brisk mild sweet lazy icy drowsy
weather:
sunny warm bright cold windy cloudy rainy quiet foggy clear chilly beautiful frosty cool snowy golden breezy
hot stormy gray mild crisp drizzly glorious sleepy blustery dusky mellow wintry sultry overcast radiant
blowy
daypart:
morning day afternoon evening Saturday Sunday Monday Friday Tuesday Wednesday Thursday
weekday:
Saturday Sunday Monday Friday Tuesday Wednesday Thursday
season:
summer spring autumn winter April October June May September December March July November
ground:
grass sand mud shade sunshine hay dirt moonlight snow rain wind mist fog dew clover puddles gravel weeds
straw
smell:
fresh_bread flowers rain pine cinnamon wet_grass honey apples lavender cut_hay soap wood_smoke oranges
vanilla peppermint roasted_nuts sea_salt warm_toast strawberry_jam lilacs pumpkin_soup candle_wax ginger
old_books moss melted_butter cloves
glad:
happy glad joyful delighted cheerful excited thrilled pleased content merry overjoyed grateful proud jolly
tickled blissful radiant hopeful satisfied gleeful elated lighthearted enchanted giddy chirpy
warm:
warm light bright safe cozy calm hopeful free peaceful strong loved lucky brave comfortable relaxed cheery
sunny refreshed thankful clever fearless awake wanted welcome understood wonderful special
healed:
well strong healthy lively playful merry cheerful spry steady
sad:
sad upset unhappy gloomy lonely heartbroken miserable disappointed blue glum sorrowful downhearted tearful
dismayed mournful forlorn hurt wistful dejected woeful
heavy:
worried tired lost small confused cold empty helpless puzzled uneasy sorry weary troubled hopeless shaky
restless homesick hollow bored unsure sleepy left_out drained weak
scared:
scared afraid frightened nervous terrified anxious alarmed fearful timid panicky startled spooked jittery
petrified worried tense shaken uneasy wary
afraid:
scared afraid frightened terrified fearful wary mistrustful
sorry:
sorry ashamed guilty awful terrible embarrassed sheepish regretful dreadful uneasy wretched foolish
remorseful
went:
walked ran hurried skipped went raced marched strolled wandered tiptoed dashed hiked hopped rushed trotted
scampered trudged sprinted galloped bounded ambled crept cycled sauntered zoomed hobbled bustled shuffled
charged jogged roamed
how:
quickly happily slowly quietly carefully cheerfully gently bravely eagerly merrily softly proudly gladly
patiently calmly boldly politely playfully excitedly kindly gracefully lightly thoughtfully briskly busily
sleepily dreamily steadily nimbly earnestly heartily cautiously nervously joyfully hopefully neatly swiftly
warmly wisely firmly curiously dutifully loudly sweetly silently tenderly delicately clumsily
sadly:
sadly quietly softly slowly gloomily tearfully wearily glumly faintly anxiously hoarsely weakly miserably
said:
said called announced declared explained remarked chirped stated observed
cheered:
cried shouted laughed exclaimed cheered sang giggled squealed hooted whooped yelled beamed
sighed:
said whispered sighed mumbled murmured sobbed wept muttered sniffed groaned moaned cried wailed
advised:
said answered replied whispered suggested explained promised added chuckled murmured called
replied:
said whispered murmured replied answered mumbled sighed added admitted explained muttered promised
asked:
asked wondered inquired
exclamation:
Oh Look Wow Hooray Yes Goodness Hurray My_goodness Yay Come_on Hello Listen Hey Wonderful Yippee Gosh Well
Golly Bravo Splendid
hobby:
drawing painting reading singing dancing swimming climbing_trees baking flying_kites gardening telling_jokes
collecting_stamps catching_frogs building_towers riding_bicycles picking_berries playing_chess fishing
skating whistling feeding_ducks making_puppets watching_clouds counting_stars solving_puzzles knitting
playing_soccer digging_holes exploring pressing_flowers telling_stories jumping_rope learning_riddles
drumming juggling camping writing_poems watching_trains sewing hiking folding_paper carving_wood
sailing_boats chasing_butterflies inventing_games growing_beans stargazing doing_magic_tricks cooking
sledding playing_marbles tending_bees birdwatching mending_clocks blowing_bubbles rowing shelling_peas
sculpting yodeling cartwheeling raking_leaves making_pottery
game:
tag hide-and-seek catch hopscotch checkers soccer marbles leapfrog cards chess pirates dominoes charades
basketball badminton bingo kickball croquet tug-of-war follow-the-leader blindfold_bluff volleyball
cops_and_robbers ring_toss
topic:
dragons pirates animals stars dinosaurs fairies the_sea knights robots the_moon whales castles giants trains
elves mermaids space wizards polar_bears volcanoes kings_and_queens faraway_lands wolves unicorns ghosts
the_jungle explorers outlaws tigers comets elephants the_desert clouds inventors magic submarines monkeys
sharks cowboys snowmen crocodiles parrots princesses owls islands acrobats kangaroos shooting_stars
lighthouses turtles
material:
paper glue string wood cardboard paint cloth tape clay yarn glitter buttons wire twigs ribbons leaves nails
feathers bottle_caps beads pinecones felt thread straw sponges foil sticks rubber_bands cotton crayons
pipe_cleaners newspaper corks chalk toothpicks burlap
craft:
kite card boat birdhouse puppet castle mask picture necklace rocket paper_lantern crown basket quilt
treehouse dollhouse wind_chime robot spaceship scarecrow clay_pot scrapbook bookshelf go-kart snowman
rocking_chair music_box raft flower_box telescope jigsaw photo_frame wagon totem_pole weather_vane rag_rug
dragon_costume toy_theater
party:
birthday_party picnic puppet_show parade concert treasure_hunt tea_party dance magic_show bonfire
pancake_breakfast costume_party play surprise_dinner garden_party garden_feast lantern_walk sing-along
movie_night pajama_party
decoration:
balloons flowers ribbons candles paper_stars streamers lanterns flags bells garlands confetti bunting
paper_chains fairy_lights banners pinwheels tassels wreaths
sound:
bump squeak howl thump whisper rustle growl creak knock buzz whimper tapping crash hiss snore rumble
scratching clatter jingle hoot moan groan splash hum chirp rattle sniffle whine mewing patter clang shuffle
fear:
deep_pool big_slide high_bridge attic cellar tall_ladder school_stage forest barking_dog diving_board tunnel
steep_hill elevator empty_house climbing_wall haunted_mill old_well rope_bridge roller_coaster dark_hallway
ice_rink dark_barn hay_loft giant_swing waterfall_path cave bumpy_pony watchtower rowboat
skill:
swim ride_a_bicycle whistle skate juggle dance tie_knots read_music climb_a_rope bake_bread play_the_piano
throw_a_ball ski count_in_French paddle_a_canoe do_a_cartwheel ride_a_horse use_a_sewing_machine
stand_on_one_hand write_in_cursive do_a_magic_trick play_chess jump_rope tell_time row_a_boat sing_a_solo
walk_on_stilts milk_a_cow
number:
two three four five six seven ten eight twelve nine twenty eleven a_hundred fifteen thirty eighteen sixteen
fifty forty fourteen thirteen ninety
race:
race sack_race relay_race swimming_race bicycle_race boat_race three-legged_race egg-and-spoon_race
sled_race spelling_bee cooking_contest talent_show kite_contest pumpkin_contest drawing_contest chess_match
obstacle_course skating_race snail_race go-kart_race
prize:
medal trophy ribbon cup badge basket_of_fruit chocolate_cake gold_star certificate bag_of_marbles crown
silver_spoon bouquet book_of_stories pocket_compass rosette jar_of_honey new_bicycle
chore:
water_the_plants feed_the_hens wash_the_dishes clean_the_kitchen sweep_the_porch walk_the_dog set_the_table
pick_the_beans fold_the_towels bring_in_the_firewood rake_the_leaves collect_the_eggs polish_the_spoons
lock_the_gate mail_the_letter brush_the_pony dust_the_shelves tidy_the_playroom mend_the_fence
carry_the_groceries return_the_library_book stir_the_soup weed_the_garden shovel_the_snow feed_the_goldfish
watch_the_baby close_the_windows
trouble:
hurt_its_foot lost_its_mother fallen_into_a_hole gotten_stuck_in_a_fence lost_its_way
caught_its_leg_in_some_string bumped_its_head gotten_tangled_in_a_net hurt_its_back swallowed_some_dust
stepped_on_a_thorn slipped_on_a_wet_stone gotten_trapped_under_a_branch fallen_out_of_a_tree
rolled_down_the_bank scratched_its_nose lost_all_its_supper gotten_paint_in_its_eye
remedy:
a_bandage warm_milk a_blanket some_water a_handkerchief a_cup_of_oats a_soft_towel a_bowl_of_soup a_ladder
a_pair_of_scissors a_rope a_cushion some_bread_crumbs a_wooden_box a_spoonful_of_honey a_woolen_sock
a_handful_of_clover some_hay a_straw_hat a_garden_glove
furnishing:
chairs blankets pillows cushions boxes sheets umbrellas quilts towels mats crates benches curtains baskets
brooms ropes stools planks
pretend:
ship castle spaceship cave submarine train fort palace island airplane jungle mountain circus desert igloo
volcano pirate_ship hot-air_balloon rocket lighthouse dragon's_den race_car wagon_train theater secret_base
together:
laughed danced sang played talked giggled cheered rested clapped whistled skipped hummed napped twirled
celebrated wiggled picnicked daydreamed chatted sketched whispered strolled stargazed snacked
gesture:
smiled nodded laughed grinned giggled waved clapped winked beamed chuckled bowed blushed sighed shrugged
jumped cheered blinked danced twirled hiccupped snorted hopped whistled curtsied yawned stretched
"""

# fmt: off
PAIRED = [
    "trait", "praise", "smell", "treats", "plants", "material", "topic", "decoration", "animal", "hobby", "together",
    "furnishing", "color", "warm", "how",
]
# fmt: on

THINGS = ["toy", "keepsake", "clothing", "tool", "book", "instrument"]


def _read_lists() -> dict[str, list[str]]:
    """A line that ends in a colon names a list; words are split at spaces, and "_" stands for a space in one."""
    lists: dict[str, list[str]] = {}
    for item in LISTS.split():
        if item.endswith(":"):
            current = lists[item[:-1]] = []
        else:
            current.append(item.replace("_", " "))
    return lists


def _people(women: list[str], men: list[str], woman: str, man: str) -> list[dict[str, str]]:
    """Women and men in turns, so that the weights favour neither."""
    people = []
    for pair in zip(women, men, strict=True):
        for word, kid, he, him, his in zip(pair, (woman, man), ("she", "he"), ("her", "him"), ("her", "his")):
            intro = f"{kid} named {word}"
            people.append({"word": word, "he": he, "him": him, "his": his, "kid": kid, "intro": intro})
    return people


def _build() -> dict[str, list[dict[str, str]]]:
    lists = _read_lists()
    built = {
        "child": _people(lists.pop("girls"), lists.pop("boys"), "girl", "boy"),
        "friend": _people(lists.pop("friend_girls"), lists.pop("friend_boys"), "girl", "boy"),
        "elder": _people(lists.pop("she_elders"), lists.pop("he_elders"), "woman", "man"),
    }
    # All kinds of things in turns, each kind in its own order: toys are as common as keepsakes.
    ranked = sorted((rank, kind) for kind in range(len(THINGS)) for rank in range(len(lists[THINGS[kind]])))
    built["thing"] = [{"word": lists[THINGS[k]][rank], "use": f"use_{THINGS[k]}"} for rank, k in ranked]
    del lists["instrument"]  # told of only as a thing
    for name in PAIRED:
        lists[f"{name}_one"], lists[f"{name}_two"] = lists[name][::2], lists[name][1::2]
    return built | {name: [{"word": word} for word in words] for name, words in lists.items()}


WORDS = _build()
