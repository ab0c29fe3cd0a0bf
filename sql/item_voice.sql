-- What people say of an item: one row per item that something is said of. Never published.
--
-- praise, fault: the sentences of reviews that say most, at most six in all, each of another user: three of each kind, and
-- more of the one where the other has fewer. What a sentence says is the sum of the weights of the item's words in it, over
-- the root of its length. keywords: the twelve words that say most about the item, of its
-- description or of at least two users; pairs of characters of scripts without spaces are put together as the item's
-- sentences have them. tellers: everybody who wrote one of the sentences of praise and fault, also where
-- several wrote the same.
with weighed as (
    select t.item_id, t.user_id, t.liked, t.sentence, sum(w.weight) as weight
    from item_word as w
    join (
        -- Who writes the same twice has said it once.
        select distinct item_id, user_id, liked, sentence, word
        from (select item_id, user_id, liked, sentence, unnest(words) as word from item_text where user_id is not null)
    ) as t on t.item_id = w.item_id and t.word = w.word
    group by t.item_id, t.user_id, t.liked, t.sentence
),
-- What several people write word for word counts once.
scored as (
    select
        item_id,
        sentence,
        min(user_id) as user_id,
        bool_and(liked) as liked,
        cast(max(weight) as double) / sqrt(cast(character_length(sentence) as double) + 40.0) as score
    from weighed
    group by item_id, sentence
),
best_of_user as (
    select item_id, liked, sentence, user_id, score
    from (
        select
            item_id,
            liked,
            sentence,
            user_id,
            score,
            row_number() over (partition by item_id, user_id order by score desc, sentence) as place
        from scored
    )
    where place = 1
),
placed as (
    select
        item_id,
        liked,
        sentence,
        row_number() over (partition by item_id, liked order by score desc, sentence) as place,
        count(*) over (partition by item_id) as n,
        sum(case when liked then 1 else 0 end) over (partition by item_id) as n_praise
    from best_of_user
),
chosen as (
    select item_id, liked, sentence, place
    from placed
    where place <= greatest(3, 6 - case when liked then n - n_praise else n_praise end)
),
told as (
    select c.item_id, c.liked, c.sentence, c.place, array_agg(t.user_id) as tellers
    from chosen as c
    join item_text as t on t.item_id = c.item_id and t.sentence = c.sentence
    where t.user_id is not null
    group by c.item_id, c.liked, c.sentence, c.place
),
voiced as (
    select
        item_id,
        array_agg(sentence order by place) filter (where liked) as praise,
        array_agg(sentence order by place) filter (where not liked) as fault,
        array_sort(array_distinct(flatten(array_agg(tellers)))) as tellers
    from told
    group by item_id
),
-- Only scripts without spaces have words of two characters, and Korean.
paired as (
    select distinct item_id from item_word where is_common and character_length(word) = 2
),
said as (
    select t.item_id, array_agg(t.sentence order by t.sentence) as sentences
    from paired as p
    join item_text as t on t.item_id = p.item_id
    group by t.item_id
),
keyword as (
    select k.item_id, whole_words(k.keywords, s.sentences) as keywords
    from said as s
    right join (
        select item_id, array_agg(word order by place) as keywords
        from (
            select item_id, word, row_number() over (partition by item_id order by place) as place
            from item_word
            where is_common
        )
        where place <= 12
        group by item_id
    ) as k on k.item_id = s.item_id
),
teller as (
    select item_id, count(distinct user_id) as n_tellers from item_text where user_id is not null group by item_id
)
select
    cast(i.item_id as varchar) as item_id,
    coalesce(v.praise, cast(make_array() as varchar[])) as praise,
    coalesce(v.fault, cast(make_array() as varchar[])) as fault,
    coalesce(k.keywords, cast(make_array() as varchar[])) as keywords,
    coalesce(v.tellers, cast(make_array() as varchar[])) as tellers,
    cast(coalesce(t.n_tellers, 0) as bigint) as n_tellers
from (select distinct item_id from item_word) as i
left join keyword as k on k.item_id = i.item_id
left join voiced as v on v.item_id = i.item_id
left join teller as t on t.item_id = i.item_id
order by item_id
