"""The words of codes and of check words: short and common, for reading out. No two begin with the same four letters.

Both sides of a conversation draw the check word from this list: whoever changes it counts `node.join.inviter.VERSION` up.
"""

WORDS = tuple(
    """
    acorn actor agent alarm album alley amber angel ankle apple apron arena armor arrow artist aspen atlas attic aunt autumn
    bacon badge bagel bakery balcony bamboo banana banjo barrel basket bath beach beard beaver bedroom beetle bench berry bicycle
    birch biscuit blanket blossom bottle bowl branch bread bridge bronze broom brush bubble bucket budget buffalo builder bullet
    burger bus button buyer cabin cable cactus cake camera canal candle canoe canyon captain carbon carpet castle cattle cedar
    cello cereal chalk cherry chess chicken chimney church cinema circle citrus clarinet cloud clover coat cobra coconut coffee
    comet compass copper coral cotton cousin cowboy crab cradle crane crayon creek cricket crown crystal cuckoo cupboard curtain
    cushion dairy daisy dancer dawn decade denim desert desk dessert diamond diary diesel dinner dirt doctor dolphin domino donkey
    door dragon drama drawer driver drum duck dune dusk eagle earth easel east echo eclipse editor eel effort eight elbow elder
    elephant elm ember emerald engine envelope epoch equator evening expert fabric factory falcon family farmer feather fence fern
    ferry fiddle field figure film finger fire fish flag flame flower flute fog forest fork fossil fountain fox freezer friend
    frog frost fruit fudge fund funnel gallery garden garlic gate gazelle gecko genius giant ginger giraffe glacier glass globe
    glove goat gold gondola goose gorilla grape gravel green grocer guitar gull gum hammer hamster handle harbor harp hat hawk
    hazel heart hedge helmet herb heron hill hippo hive hobby holiday honey hook horse hotel house hummus hunter ice icon igloo
    index infant ink insect iris iron island ivory ivy jacket jaguar jam jar jasmine jazz jeans jelly jewel jigsaw jockey jokes
    journal judge juice jungle jury kangaroo kayak kebab kernel kettle key kidney king kitchen kiwi knee knife koala ladder lake
    lamp lantern laptop larch lasso laundry lawyer leaf lemon lentil leopard letter library light lily lime lion lizard llama
    lobster locket logic lotus lounge lumber lunch lynx machine magnet mango maple marble market mask meadow medal melon mentor
    metal meter milk mineral mirror mist mitten model money monkey moon morning moss motor mountain mouse mud muffin museum mustard
    napkin nature needle nephew nest nickel night noodle north notebook novel number nurse nutmeg oak oasis oatmeal object ocean
    octopus office olive omelet onion opera orange orbit orchid organ ostrich otter oven owl oxygen oyster paddle palace pancake
    panda paper parrot pasta patrol peach pebble pelican pencil pepper piano picnic pigeon pillow pilot pine pirate pizza planet
    plum pocket poem polar pond poplar potato prince puddle pulley pump puppet purple puzzle pyramid quail quarry queen quilt quiver
    rabbit radio raft rain ranch raven razor recipe reef ribbon rice river robin rocket roof rope rose rubber ruby rug saddle
    sailor salad sand saturn sauce scarf school scooter seal season senator shadow sheep shoe silver singer siren skate sky sleigh
    snail soap soccer sofa soup spider spoon spring squash stable star statue stone summer sunset swan table tango tea temple tent
    theater thumb tiger timber toast tomato torch tower tractor train tulip tunnel turtle tutor twig umbrella uncle unicorn valley
    vanilla velvet vessel village vine violin visitor voyage wagon walnut water weather whale wheat window winter wizard wolf wool
    yacht yarn yellow yogurt zebra zipper
    """.split()  # noqa: SIM905 - six hundred quotes would hide the words
)
